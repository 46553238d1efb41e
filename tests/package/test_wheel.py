"""Tests of the built wheel: it holds the whole product and nothing else, and works outside the checkout."""

import importlib.util
import json
from pathlib import Path

import pytest

from pagoda.distribution import DISTRIBUTION, VERSION
from tests.package.building import (
    PRODUCT,
    REPOSITORY,
    Environment,
    build,
    copy_repository,
    install_without_dependencies,
    product_files,
    read_wheel,
)
from worker.kernels.native.build import FLAGS, library_key

METADATA = f"{DISTRIBUTION.replace('-', '_')}-{VERSION}.dist-info"
DECOYS = (".env", "pagoda/.env", "pagoda/notes.txt", "worker/kernels/native/source/kernels.so", "gateway/app.py~")
"""Files that may lie beside the sources on a developer's machine and must not be in a release."""
COMMAND = "pagoda.cli.__main__"
"""The only module that acts when it is imported."""
IMPORT_ALL = """
import importlib, json, sys
files = {name: importlib.import_module(name).__file__ for name in json.loads(sys.argv[1])}
from worker.kernels.native.build import library_key
print(json.dumps([files, library_key([sys.executable], json.loads(sys.argv[2]))]))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = copy_repository(tmp_path_factory.mktemp("package") / "sources")
    for decoy in DECOYS:
        (copied / decoy).write_text("of this machine")
    return copied


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources, tmp_path_factory.mktemp("from-tree"), "--wheel")


@pytest.fixture(scope="module")
def release(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a release and return its directory: the source distribution, and the wheel that was built from it."""
    directory = tmp_path_factory.mktemp("release")
    build(sources, directory)
    return directory


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return install_without_dependencies(wheel, tmp_path_factory.mktemp("environment") / "venv")


def test_the_wheel_holds_the_product_and_nothing_else(wheel: Path) -> None:
    """The wheel holds all product files and no others; package-data in pyproject.toml names the kinds of data files."""
    contents = read_wheel(wheel)
    assert {name for name in contents if not name.startswith(f"{METADATA}/")} == set(product_files())
    assert f"{METADATA}/licenses/LICENSE" in contents
    assert contents[f"{METADATA}/top_level.txt"].decode().split() == sorted(PRODUCT)


def test_the_wheel_holds_each_file_as_it_is_in_the_repository(wheel: Path) -> None:
    contents = read_wheel(wheel)
    assert [name for name, content in product_files().items() if contents.get(name) != content] == []


def test_nothing_in_the_wheel_names_this_machine(wheel: Path, sources: Path) -> None:
    paths = [str(directory).encode() for directory in (REPOSITORY, sources, Path.home())]
    contents = read_wheel(wheel)
    assert [name for name, content in contents.items() if any(path in content for path in paths)] == []


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, release: Path) -> None:
    assert len(list(release.glob("*.tar.gz"))) == 1
    (from_source_distribution,) = release.glob("*.whl")
    assert read_wheel(from_source_distribution) == read_wheel(wheel)


def test_the_command_works_outside_the_checkout(installed: Environment, tmp_path: Path) -> None:
    assert installed.run("pagoda", "--version", home=tmp_path) == f"pagoda {VERSION}\n"
    assert installed.run("python", "-m", "pagoda.cli", "--version", home=tmp_path) == f"pagoda {VERSION}\n"


@pytest.mark.parametrize("tier", ["gateway", "scheduler", "worker"])
def test_a_tier_works_outside_the_checkout(tier: str, installed: Environment, tmp_path: Path) -> None:
    assert f"usage: pagoda {tier}" in installed.run("pagoda", tier, "--help", home=tmp_path)


def test_every_module_is_imported_from_the_wheel(installed: Environment, tmp_path: Path) -> None:
    """Every module's file is in the environment, and so are the native kernels' sources: the library's key is their hash."""
    record = (installed.site_packages / METADATA / "RECORD").read_text()
    modules = sorted(_module(line.partition(",")[0]) for line in record.splitlines() if ".py," in line)
    modules.remove(COMMAND)
    if importlib.util.find_spec("triton") is None:  # installed on Linux only
        modules = [name for name in modules if not name.startswith("worker.kernels.triton.")]
    assert {name for name in modules if "." not in name} == set(PRODUCT)
    printed = installed.run("python", "-c", IMPORT_ALL, json.dumps(modules), json.dumps(FLAGS), home=tmp_path)
    files, key = json.loads(printed)
    assert sorted(files) == modules
    assert [file for file in files.values() if installed.site_packages not in Path(file).parents] == []
    assert key == library_key([str(installed.python)], FLAGS)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
