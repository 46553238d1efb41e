"""Tests that what documents and sources name exists (files, settings, metrics), and that lines and table cells are short."""

import re
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from scheduler.settings import SchedulerSettings
from worker.settings import WorkerSettings

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("gateway", "scheduler", "worker", "kvcache", "pagoda", "protos", "tests", "bench", "docs", "deploy")
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
FILE = re.compile(r"(?<![\w/.:~$<>-])(?:[\w.-]+/)*[\w-]+\.(?:py|c|h|lua|proto|md|toml|ya?ml)\b(?!/)")
FOLDER = re.compile(rf"`((?:{'|'.join(FOLDERS)})(?:/[\w-]+)*)/`")
LAYOUT = re.compile(r"^## Layout\n+```\n(.*?)```$", re.DOTALL | re.MULTILINE)
LAYOUT_FOLDER = re.compile(r"(?P<indent>^|  )?(?P<path>(?<![\w/.-])[\w-]+(?:/[\w-]+)*)/(?![\w-])", re.MULTILINE)
MODULE = re.compile(rf"-m ((?:{'|'.join(FOLDERS)})(?:\.\w+)*)")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\]\(([^)#:]*)#([^)]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
PATTERNS = frozenset({"bench/results/peers-MODEL.md"})
"""Names of documents that stand for several files."""
RECIPES = [REPOSITORY / name for name in ("Makefile", "Dockerfile", "compose.yaml", ".ci/run")]
SOURCES = re.compile(r"(?<![\w/.:~$<>{}*-])(?:\.\./)*((?:[\w.-]+/)*[\w-]+\.(?:py|c|h|lua|proto|md))\b(?![/.\w(=])")
NOT_OURS = frozenset({"version.py"})
"""Names of files of other packages."""
CODE_BLOCK = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
INDENTED_CODE = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
LINK_TARGET = re.compile(r"\]\([^)]*\)")
ONE_LINK = re.compile(r"\s*(?:[-*] |\d+\. |> )?(?:\S+|!?\[[^]]*\]\([^)]*\)[.,:;]?)")
VARIABLE = re.compile(r"\bPAGODA_(GATEWAY|SCHEDULER|WORKER)_([A-Z0-9_]*[A-Z0-9])\b")
OTHER_VARIABLE = re.compile(r"\bPAGODA_(?!GATEWAY_|SCHEDULER_|WORKER_)[A-Z0-9_]*[A-Z0-9]\b")
METRIC = re.compile(r"`((?:pagoda_|vllm:)[a-z_]+)[`{]")
FIELDS = {
    "GATEWAY": GatewaySettings.model_fields,
    "SCHEDULER": SchedulerSettings.model_fields,
    "WORKER": WorkerSettings.model_fields,
}
MAX_LINE = 120
MAX_CELL = 60
ALL_DOCUMENTS = sorted(
    {*REPOSITORY.glob("*.md"), *(path for name in FOLDERS for path in (REPOSITORY / name).rglob("*.md"))}
)


@pytest.fixture(scope="module")
def sources() -> str:
    """Return the text of the Python files outside the tests, and of the recipes."""
    paths = [path for folder in FOLDERS if folder != "tests" for path in (REPOSITORY / folder).rglob("*.py")]
    return "\n".join(path.read_text() for path in [*paths, *RECIPES, REPOSITORY / "tests" / "conftest.py"])


@pytest.fixture(scope="module")
def names() -> set[str]:
    ours = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*")]
    return {path.name for path in (*ours, *REPOSITORY.iterdir())}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_is_named_exists(document: Path, names: set[str]) -> None:
    """Documents name files and folders that exist: a path from the repository's root, or the name alone of a file anywhere."""
    text = document.read_text()
    files = {match[0] for match in FILE.finditer(LINK.sub("]", text))} - PATTERNS
    folders, links = set(FOLDER.findall(text)), set(LINK.findall(text))
    missing = [file for file in files if not ((REPOSITORY / file).is_file() if "/" in file else file in names)]
    missing += [folder for folder in folders if not (REPOSITORY / folder).is_dir()]
    missing += [link for link in links if not (document.parent / link).exists()]
    assert missing == []


def test_the_folders_of_the_layout_exist() -> None:
    """The README's layout names folders that exist: one at a line's start or after several spaces, then its subfolders."""
    layout = LAYOUT.search((REPOSITORY / "docs/architecture.md").read_text())
    assert layout is not None
    folders: list[str] = []
    parent = ""
    for match in LAYOUT_FOLDER.finditer(layout[1]):
        if match["indent"] is not None:
            parent = match["path"]
        folders.append(match["path"] if match["indent"] is not None else f"{parent}/{match['path']}")
    assert {"worker", "worker/steps", "pagoda/wire", "bench", "docs/adr"} <= {*folders}
    assert [folder for folder in folders if not (REPOSITORY / folder).is_dir()] == []


@pytest.mark.parametrize("folder", ["gateway", "scheduler", "worker", "kvcache", "pagoda", "protos"])
def test_what_the_source_names_exists(folder: str) -> None:
    """Comments and docstrings name files that exist; they may give only the last folders of a path."""
    paths = [f"/{path.relative_to(REPOSITORY)}" for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.*")]
    sources = [path for path in (REPOSITORY / folder).rglob("*.*") if path.suffix in (".py", ".c", ".h", ".proto")]
    sources = [path for path in sources if "_pb2" not in path.name]
    named = {(path.name, name) for path in sources for name in SOURCES.findall(path.read_text())}
    ends = {"/".join(parts[i:]) for path in paths if (parts := path.split("/")) for i in range(1, len(parts))}
    assert sorted(pair for pair in named if pair[1] not in ends | NOT_OURS) == []


@pytest.mark.parametrize("document", [*DOCUMENTS, *RECIPES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_is_run_as_a_module_exists(document: Path) -> None:
    modules = [REPOSITORY / name.replace(".", "/") for name in MODULE.findall(document.read_text())]
    assert [
        str(each) for each in modules if not (each.with_suffix(".py").exists() or (each / "__main__.py").exists())
    ] == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_what_a_recipe_names_exists(recipe: Path) -> None:
    named = re.findall(rf"(?<![\w/.-])(?:\./)?((?:{'|'.join(FOLDERS)})/[\w./-]*\w)", recipe.read_text())
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_is_linked_to_is_a_heading(document: Path) -> None:
    links = [(path or document.name, anchor) for path, anchor in ANCHOR.findall(document.read_text())]
    links = [(path, anchor) for path, anchor in links if path.endswith(".md")]
    assert [link for link in links if link[1] not in anchors(document.parent / link[0])] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_settings_and_metrics_of_a_document_exist(document: Path, sources: str) -> None:
    text = document.read_text()
    missing = [f"PAGODA_{tier}_{name}" for tier, name in VARIABLE.findall(text) if name.lower() not in FIELDS[tier]]
    missing += [name for name in OTHER_VARIABLE.findall(text) if name not in sources]
    missing += [name for name in METRIC.findall(text) if f'"{name.removesuffix("_total")}' not in sources]
    assert missing == []


def test_the_list_of_decisions_is_complete() -> None:
    folder = REPOSITORY / "docs" / "adr"
    titles = [(path.name, path.read_text().partition("\n")[0]) for path in sorted(folder.glob("0*.md"))]
    listed = re.findall(r"^(\d+\.) \[(.*)\]\((.*)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert [(name, f"# {number} {title}") for number, title, name in listed] == titles


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    headings = HEADING.findall(CODE_BLOCK.sub("", document.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def too_long(text: str) -> list[str]:
    """Return the lines of prose and the table cells that are too long to read on a narrow screen.

    Code blocks may have any length, and so may a line that is one link. In a table, the target of a link does not count.
    """
    lines = INDENTED_CODE.sub("", CODE_BLOCK.sub("", text)).splitlines()
    rows = [LINK_TARGET.sub("]", line) for line in lines if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    prose = [line for line in lines if not line.startswith("|") and not ONE_LINK.fullmatch(line)]
    return [line for line in prose if len(line) > MAX_LINE] + [cell for cell in cells if len(cell) > MAX_CELL]


@pytest.mark.parametrize("document", ALL_DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_lines_and_table_cells_are_short(document: Path) -> None:
    assert too_long(document.read_text()) == []


def test_a_long_line_or_cell_is_found() -> None:
    words, url = "word " * 25, "https://example.org/" + "a" * 120
    assert too_long(f"{words}\n\n| a | {words[:65]} |\n") == [words, words[:65].strip()]
    assert too_long(f"| [a link]({url}) | [another]({url}) |\n") == []
    assert too_long(f"10. a\n    {words}\n") == [f"    {words}"]
    assert too_long(f"```\n{words}\n```\n\n    {words}\n\n- [a link]({url})\n{url}\n") == []
