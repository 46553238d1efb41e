"""The build of the native kernels for this machine: compiled once, then found again at the next start.

A library's directory is named after everything that it depends on: the sources, the flags, the instructions it may use, the
compiler and the processor. So a new version of any of them gives a new library, and two processes that start at the same time
at worst both build the same one.
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pagoda.process.resources import usable_cores

SOURCE_DIRECTORY = Path(__file__).parent / "source"
LIBRARY_NAME = "kernels.so"
FLAGS = (
    "-std=gnu11",
    "-O3",
    # For the same bits as torch, no operation may be fused with another or reordered.
    "-ffp-contract=off",
    "-fno-fast-math",
    # The code reads neither errno nor the floating-point status.
    "-fno-math-errno",
    "-fno-trapping-math",
    # By default, Zig checks for undefined behaviour and ends the process.
    "-fno-sanitize=all",
    "-fvisibility=hidden",
    "-fPIC",
    "-pthread",
)
# gcc, clang and Zig share these names; Zig knows neither x86-64-v3 nor flags such as -mno-avx512f.
THIS_PROCESSOR, AVX2 = "native", "haswell"
LIBRARIES = ("-lm",)
COMPILERS = ("cc", "gcc", "clang")
TIMEOUT_S = 120.0


class BuildError(Exception):
    """The library cannot be built; the message says why."""


def build_library(directory: Path, compiler: Sequence[str], architecture: str) -> Path:
    """Return the library below `directory`; compile it if it does not exist. Raises BuildError."""
    command = [*compiler, *FLAGS, f"-march={architecture}"]
    library = directory / library_key(compiler, command) / LIBRARY_NAME
    if not library.exists():
        compile_library(command, library)
    return library


def architectures() -> list[str]:
    """Return the architectures for which the library can be compiled, in the order in which to try them.

    The portable path is left out if a better one exists, because it computes prompts more slowly than torch.
    """
    has_avx512 = platform.machine() in ("x86_64", "AMD64") and "avx512f" in _processor().split()
    return [THIS_PROCESSOR, AVX2] if has_avx512 else [THIS_PROCESSOR]


def find_compiler() -> list[str]:
    """Return the command of the compiler in $CC, else of one in the path, else of the one in the package ziglang."""
    if named := shlex.split(os.environ.get("CC", "")):
        if shutil.which(named[0]) is None:
            raise BuildError(f"the compiler named by CC, {named[0]!r}, does not exist")
        return named
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise BuildError(
        f"there is no C compiler: none of {', '.join(COMPILERS)} is in the path, CC is not set, and the Python package "
        "ziglang is not installed; install one of them"
    )


def library_key(compiler: Sequence[str], command: Sequence[str]) -> str:
    parts = [*command, _run([*compiler, "--version"]), *LIBRARIES, platform.machine(), _processor()]
    parts += [
        f"{path.name}\n{path.read_text()}" for path in sorted(SOURCE_DIRECTORY.iterdir()) if path.suffix in ".c.h"
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def compile_library(command: Sequence[str], library: Path) -> None:
    """Compile on all cores, into a temporary file, and rename it, so that another process never finds an incomplete library."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as temporary:
            unfinished = Path(temporary) / LIBRARY_NAME
            sources = sorted(SOURCE_DIRECTORY.glob("*.c"))
            objects = [str(Path(temporary) / f"{source.stem}.o") for source in sources]
            with ThreadPoolExecutor(usable_cores()) as threads:
                compiled = (
                    threads.submit(_run, [*command, "-c", str(source), "-o", unlinked])
                    for source, unlinked in zip(sources, objects, strict=True)
                )
                for each in list(compiled):
                    each.result()
            _run([*command, "-shared", *objects, "-o", str(unfinished), *LIBRARIES])
            unfinished.replace(library)
    except OSError as error:
        raise BuildError(f"cannot write {library}: {error.strerror or error}") from error


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise BuildError(f"{command[0]} failed: {lines[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took more than {TIMEOUT_S:g} s") from error
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from error
    return done.stdout


def _processor() -> str:
    """Return a description of what -march=native depends on, since machines of different age may share a home."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )
