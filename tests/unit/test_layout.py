"""Tests of the code's layout: folders and files are small, and unit tests mirror the folders."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("gateway", "scheduler", "worker", "kvcache", "pagoda")
MAX_FILES = 26
MAX_LINES = 350


def python_files(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_is_crowded(package: str) -> None:
    folders = {path.parent for path in python_files(package)}
    assert {str(folder) for folder in folders if len(list(folder.glob("*.py"))) > MAX_FILES} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long(package: str) -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in python_files(package)}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize("package", [*PACKAGES, "bench"])
def test_unit_tests_mirror_the_folders(package: str) -> None:
    tests = Path("tests/unit")
    folders = {
        path.parent.relative_to(REPOSITORY / tests) for path in (REPOSITORY / tests / package).rglob("test_*.py")
    }
    assert {str(folder) for folder in folders if not (REPOSITORY / folder).is_dir()} == set()
