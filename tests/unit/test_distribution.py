"""Tests of the distribution's name: the code has it in one place, and no text tells a reader to install another name."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagoda.distribution import DISTRIBUTION, install_command

REPOSITORY = Path(__file__).parents[2]
PRODUCT = ("gateway", "scheduler", "worker", "kvcache", "pagoda", "protos")
FROZEN = REPOSITORY / "bench/quality/text.txt"
OTHER_PROJECT = re.compile(
    r"""(?<![\w-])pagoda\[                                      # an extra of it
    |   (?<!un)install[ \t](?:[^\n`]*[ \t])?["']?pagoda(?=["'`\s=<>~;,]|$)   # pip install pagoda
    |   (?:uvx|pipx\srun)\s+pagoda(?![-\w])""",
    re.VERBOSE | re.MULTILINE,
)


def texts(*folders: str) -> Iterator[tuple[str, str]]:
    paths = [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*"))]
    for path in paths:
        if path.is_file() and path != FROZEN and "__pycache__" not in path.parts:
            try:
                yield str(path.relative_to(REPOSITORY)), path.read_text()
            except UnicodeDecodeError:
                continue


def root_files() -> Iterator[tuple[str, str]]:
    for path in sorted(REPOSITORY.iterdir()):
        if path.is_file() and (path.suffix in (".md", ".toml", ".yaml") or path.name in ("Dockerfile", "Makefile")):
            yield path.name, path.read_text()


def test_the_code_and_the_project_file_have_the_same_name() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    own_extras = [text for extra in project["optional-dependencies"].values() for text in extra if "pagoda" in text]
    assert own_extras and all(text.startswith(f"{DISTRIBUTION}[") for text in own_extras)


def test_one_file_of_the_code_writes_the_name() -> None:
    assert [path for path, text in texts(*PRODUCT) if DISTRIBUTION in text] == ["pagoda/distribution.py"]


def test_no_text_tells_a_reader_to_install_another_project() -> None:
    found = [
        f"{path}: {match[0]}"
        for path, text in (*root_files(), *texts(*PRODUCT, "tests", "bench", "docs", "deploy", ".ci"))
        for match in OTHER_PROJECT.finditer(text)
        if path != "tests/unit/test_distribution.py"
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "pip install pagoda",
        "pip install 'pagoda[gpu]'",
        'python -m pip install --upgrade "pagoda"',
        "Install it with `pip install pagoda`.",
        "pip install torch pagoda==0.1.0",
        "uvx pagoda serve",
        "needs pagoda[tracing]",
    ],
)
def test_the_wrong_name_is_recognised(text: str) -> None:
    assert OTHER_PROJECT.search(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        install_command("all"),
        f"pip install {DISTRIBUTION}",
        "pip uninstall -y pagoda",
        "pip install /tmp/pagoda_llm-0.1.0-py3-none-any.whl",
        "pagoda --install-completion",
    ],
)
def test_the_right_name_is_accepted(text: str) -> None:
    assert OTHER_PROJECT.search(text) is None
