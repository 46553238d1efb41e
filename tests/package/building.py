"""Building the distribution from a copy of the repository, and installing it into a virtual environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PRODUCT = ("gateway", "scheduler", "worker", "kvcache", "pagoda", "protos")
COPIED = (*PRODUCT, "tests", "bench", "docs", "pyproject.toml", "README.md", "LICENSE")
TIMEOUT_S = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment that was made for a test."""

    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.path)}))

    def run(self, program: str, *arguments: str, home: Path, directory: Path = Path("/")) -> str:
        """Run an installed program outside the checkout and return its output."""
        return run([str(self.path / "bin" / program), *arguments], directory=directory, home=home)


def copy_repository(destination: Path) -> Path:
    """Copy what a build reads, tests and benchmarks included, so that building leaves nothing in the checkout."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    destination.mkdir()
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, destination / name, ignore=ignored)
        else:
            shutil.copy(source, destination / name)
    return destination


def build(sources: Path, destination: Path, *options: str) -> Path:
    """Build with this environment's setuptools and return the wheel. Without options, it is built from the source distribution."""
    run([sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(destination), str(sources)])
    (wheel,) = destination.glob("*.whl")
    return wheel


def read_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def product_files() -> dict[str, bytes]:
    """Return the files of the product's packages, by their path in the repository."""
    paths = [path for package in PRODUCT for path in (REPOSITORY / package).rglob("*") if path.is_file()]
    kept = [path for path in paths if "__pycache__" not in path.parts and not path.name.startswith(".")]
    return {str(path.relative_to(REPOSITORY)): path.read_bytes() for path in kept}


def install_without_dependencies(wheel: Path, path: Path) -> Environment:
    """Install the wheel into a new environment that finds this environment's other packages.

    A directory that a .pth file adds is searched, but the .pth files in it are not read: so the editable installation of
    this checkout, which is such a file, is not visible there.
    """
    venv.create(path, symlinks=True)
    environment = Environment(path=path)
    options = ("--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check")
    run([sys.executable, "-m", "pip", "--python", str(environment.python), "install", *options, str(wheel)])
    borrowed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (environment.site_packages / "borrowed.pth").write_text("".join(f"{directory}\n" for directory in borrowed))
    return environment


def run(
    command: Sequence[str], *, directory: Path | None = None, home: Path | None = None, timeout_s: float = TIMEOUT_S
) -> str:
    """Run a command that must succeed, and return its output."""
    ended = subprocess.run(
        command,
        cwd=directory,
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}\n{ended.stderr}"
    return ended.stdout


def clean_environment(home: Path | None = None) -> dict[str, str]:
    """Return the environment variables of this process without those that tell Python where to find modules."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return variables if home is None else variables | {"HOME": str(home)}
