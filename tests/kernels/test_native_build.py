"""Tests of building the native library: once, again after a change, by two processes at once, and without success."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import native_code
from tests.kernels.native import native_kernels, native_library
from worker.kernels.integer import IntegerKernels
from worker.kernels.native import build, load
from worker.kernels.native.kernels import NativeIntegerKernels
from worker.kernels.native.self_check import find_difference
from worker.kernels.select import select_kernels
from worker.settings import WorkerSettings

native_kernels()  # Without a compiler this skips the module.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace the sources by a library that compiles quickly, and return their directory."""
    sources = tmp_path / "source"
    sources.mkdir()
    (sources / "one.c").write_text("int one(void) { return 1; }\n")
    monkeypatch.setattr(build, "SOURCE_DIRECTORY", sources)
    return sources


def build_one(directory: Path, architecture: str = build.THIS_PROCESSOR) -> Path:
    return build.build_library(directory, build.find_compiler(), architecture)


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_select_loads_them(caplog: pytest.LogCaptureFixture) -> None:
    kernels = select_kernels("integer", "cpu", native_code.DIRECTORY)
    assert isinstance(kernels, NativeIntegerKernels)
    assert kernels.numerics_id == IntegerKernels().numerics_id
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_setting_that_turns_them_off(tmp_path: Path) -> None:
    assert WorkerSettings(home=tmp_path).native_directory == tmp_path / "state" / "kernels"
    assert WorkerSettings(home=tmp_path, native_kernels=False).native_directory is None
    assert type(select_kernels("integer", "cpu", None)) is IntegerKernels


def test_built_once(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = build_one(tmp_path / "state")
    assert [path.name for path in library.parent.iterdir()] == [build.LIBRARY_NAME]
    monkeypatch.setattr(build, "compile_library", lambda *_: pytest.fail("compiled again"))
    assert build_one(tmp_path / "state") == library


@pytest.mark.parametrize("changed", ["source", "flags", "processor", "architecture"])
def test_built_again_when_stale(changed: str, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, architecture = build_one(tmp_path / "state"), build.THIS_PROCESSOR
    match changed:
        case "source":
            (quick / "one.c").write_text("int two(void) { return 2; }\n")
        case "flags":
            monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
        case "processor":
            monkeypatch.setattr(build, "_processor", lambda: "another")
        case "architecture":
            architecture = build.AVX2
    other = build_one(tmp_path / "state", architecture)
    assert other != library
    assert other.exists()


def test_two_processes_at_once(quick: Path, tmp_path: Path) -> None:
    """Check that each process gets a complete library, and that no temporary file is left."""
    code = (
        "import ctypes, sys; from pathlib import Path\n"
        "from worker.kernels.native import build\n"
        "build.SOURCE_DIRECTORY = Path(sys.argv[1])\n"
        "sys.stdin.read(1)\n"
        "library = build.build_library(Path(sys.argv[2]), build.find_compiler(), build.THIS_PROCESSOR)\n"
        "ctypes.CDLL(str(library)); print(library)\n"
    )
    state = tmp_path / "state"
    command = [sys.executable, "-c", code, str(quick), str(state)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    printed = [process.communicate()[0].strip() for process in processes]
    assert printed[0] == printed[1] != ""
    assert [str(path) for path in state.rglob("*") if path.is_file()] == [printed[0]]


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    no_compiler(monkeypatch)
    assert type(load.load_integer_kernels(tmp_path)) is IntegerKernels
    (warning,) = caplog.records
    assert "there is no C compiler" in warning.__dict__["reason"]


def test_a_compiler_from_a_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert build.find_compiler() == [sys.executable, "-m", "ziglang", "cc"]


def test_a_named_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(build.BuildError, match="'no-such-compiler', does not exist"):
        build.find_compiler()


def test_source_that_does_not_compile(quick: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (quick / "one.c").write_text("int one(void) {")
    assert type(load.load_integer_kernels(tmp_path / "state")) is IntegerKernels
    (warning,) = caplog.records
    assert "failed: " in warning.__dict__["reason"]
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file()]


def test_a_library_without_its_functions(quick: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert type(load.load_integer_kernels(tmp_path / "state")) is IntegerKernels
    (warning,) = caplog.records
    assert "undefined symbol" in warning.__dict__["reason"]


def test_a_directory_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file")
    assert type(load.load_integer_kernels(tmp_path / "state")) is IntegerKernels
    (warning,) = caplog.records
    assert "cannot write" in warning.__dict__["reason"]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Offer three builds, which are all the same library, and return the list of those that are requested, in order."""
    asked: list[str] = []

    def build_library(directory: Path, compiler: list[str], architecture: str) -> Path:
        asked.append(architecture)
        return directory

    monkeypatch.setattr(load, "architectures", lambda: ["wide", "narrow", "plain"])
    monkeypatch.setattr(load, "build_library", build_library)
    monkeypatch.setattr(load, "load_library", lambda path: native_library())
    return asked


def test_other_bits(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Change a constant of the native kernels, so that no build gives the bits of the reference implementation."""
    monkeypatch.setattr("worker.kernels.native.kernels.GELU_FACTOR", -2.3)
    assert type(load.load_integer_kernels(tmp_path)) is IntegerKernels
    assert built == ["wide", "narrow", "plain"]
    (warning,) = caplog.records
    assert "for 'plain': gelu_tanh_mul gives other bits than torch on this machine" in warning.__dict__["reason"]


def test_other_bits_with_the_widest_instructions(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Check that a build with fewer instructions is tried before torch is used."""
    answers = iter(["linear"])
    monkeypatch.setattr(
        "worker.kernels.native.load.find_difference", lambda *pair: next(answers, None) or find_difference(*pair)
    )
    assert isinstance(load.load_integer_kernels(tmp_path), NativeIntegerKernels)
    assert built == ["wide", "narrow"]
    (warning,) = caplog.records
    assert warning.__dict__["reason"] == "for 'wide': linear gives other bits than torch on this machine"


def test_what_is_tried_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a build without AVX-512 is tried too if the processor has it, and that no build is tried twice."""

    def tried(machine: str, processor: str) -> list[str]:
        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr(build, "_processor", lambda: processor)
        return build.architectures()

    assert tried("x86_64", "flags: avx2 avx512f fma") == [build.THIS_PROCESSOR, build.AVX2]
    assert tried("x86_64", "flags: avx2 fma") == [build.THIS_PROCESSOR]
    assert tried("aarch64", "Features: asimd") == [build.THIS_PROCESSOR]
