"""Every file and folder of ours that the documentation names is there, so that it stays true when files move."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("gateway", "scheduler", "worker", "kvcache", "pagoda", "protos", "tests", "bench", "docs", "deploy")
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
FILE = re.compile(r"(?<![\w/.:~$<>-])(?:[\w.-]+/)*[\w-]+\.(?:py|c|h|lua|proto|md|toml|ya?ml)\b(?!/)")
FOLDER = re.compile(rf"`((?:{'|'.join(FOLDERS)})(?:/[\w-]+)*)/`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
PATTERNS = frozenset({"bench/results/peers-MODEL.md"})
"""Not the name of one file."""


@pytest.fixture(scope="module")
def names() -> set[str]:
    ours = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*")]
    return {path.name for path in (*ours, *REPOSITORY.iterdir())}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_is_named_exists(document: Path, names: set[str]) -> None:
    """A path is written from the repository's root; a name alone is that of a file somewhere."""
    text = document.read_text()
    files = {match[0] for match in FILE.finditer(LINK.sub("]", text))} - PATTERNS
    folders, links = set(FOLDER.findall(text)), set(LINK.findall(text))
    missing = [file for file in files if not ((REPOSITORY / file).is_file() if "/" in file else file in names)]
    missing += [folder for folder in folders if not (REPOSITORY / folder).is_dir()]
    missing += [link for link in links if not (document.parent / link).exists()]
    assert missing == []
