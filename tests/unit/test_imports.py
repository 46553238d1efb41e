"""Tests of imports: the contracts in pyproject.toml hold, and torch is loaded only where it is needed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)


def test_imports_point_one_way() -> None:
    checked = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert checked.returncode == 0, checked.stdout


def test_every_part_of_what_all_share_is_kept_from_text() -> None:
    """The contract lists every part of `pagoda` but `text`: it has no wildcard that leaves one package out."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (sources,) = [each["source_modules"] for each in contracts if "pagoda.text" in each.get("forbidden_modules", ())]
    modules = {path.stem for path in (REPOSITORY / "pagoda").iterdir() if path.suffix == ".py" or path.is_dir()}
    others = {f"pagoda.{name}" for name in modules - {"__init__", "__pycache__", "text"}}
    assert {name for name in sources if name.startswith("pagoda.")} == others
    assert set(sources) - others == {"scheduler", "kvcache", "protos"}


@pytest.mark.parametrize(
    "process", ["gateway.__main__", "scheduler.__main__", "pagoda.cli.main", "pagoda.cli.serve", "worker.__main__"]
)
def test_a_process_without_tensors_loads_no_torch(process: str) -> None:
    """No process imports torch at its start; a worker imports it when it loads a model, a pull from the hub the hub's library."""
    # A new interpreter, because that of the tests has loaded everything.
    heavy = ("torch", "numpy", "transformers", "huggingface_hub", "llguidance")
    code = f"import sys, {process}; print([name for name in {heavy} if name in sys.modules])"
    imported = run(sys.executable, "-c", code)
    assert imported.stdout.strip() == "[]", imported.stdout + imported.stderr


@pytest.mark.parametrize("process", ["gateway.__main__", "worker.__main__", "pagoda.cli.main"])
def test_a_start_that_downloads_nothing_does_not_load_the_sources(process: str) -> None:
    code = f"import sys, {process}; print([name for name in ('huggingface_hub', 'pip') if name in sys.modules])"
    imported = run(sys.executable, "-c", code)
    assert imported.stdout.strip() == "[]", imported.stdout + imported.stderr


def test_the_command_reads_its_options_without_the_store() -> None:
    """Every start of the command pays for what its options import."""
    code = "import sys, pagoda.cli.main; print('pagoda.models.store' in sys.modules, 'httpx' in sys.modules)"
    assert run(sys.executable, "-c", code).stdout.strip() == "False False"
