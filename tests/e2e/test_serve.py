"""Tests of `pagoda serve`: its output, its refusals, and its end without remains."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil

from tests.e2e.conftest import StartSystem
from tests.e2e.system import System, free_port, until
from tests.fakes.memory_group import memory_group

KEY_COMMAND = (sys.executable, "-P", "-m", "pagoda.cli", "key")


def test_streams_end_and_then_everything_at_a_signal(start_system: StartSystem) -> None:
    system = start_system("--workers", "2", "--kv-memory", "128MiB")
    banner = system.read_banner()
    assert "Pagoda is ready." in banner
    assert (
        f"{system.url}/v1" in banner and "worker 1" in banner and "KV memory: 134 MB for" in banner and "curl" in banner
    )
    children = system.children()
    tiers = [word for child in children for word in child.cmdline() if word in ("gateway", "scheduler", "worker")]
    assert sorted(tiers) == ["gateway", "scheduler", "worker", "worker"]
    request = {"model": "smollm2:135m", "prompt": "Hello", "max_tokens": 30, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{system.url}/v1/completions", json=request, timeout=200, trust_env=False) as response:
        lines = response.iter_lines()
        next(lines)
        system.process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert system.process.wait(200) == 0
    assert not any(child.is_running() for child in children)
    assert not list(system.run_directory.glob("*.sock"))


def test_a_public_address_without_a_key_is_refused(home: Path) -> None:
    command = [sys.executable, "-m", "pagoda.cli", "serve", "--home", str(home), "--host", "0.0.0.0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert refused.returncode == 1
    assert "--api-key" in refused.stderr


def test_a_key_is_asked_for_and_ctrl_c_stops_everything(start_system: StartSystem) -> None:
    system = start_system("--host", "0.0.0.0", "--api-key", "open sesame")
    system.wait_until_ready()
    assert status(system, "/v1/models", None) == 401
    assert status(system, "/v1/models", "open sesame") == 200
    children = system.children()
    assert not any("sesame" in word for child in children for word in child.cmdline())
    assert system.stop(signal.SIGINT) == 0
    assert not any(child.is_running() for child in children)


def test_a_worker_that_cannot_start_ends_the_whole(start_system: StartSystem) -> None:
    system = start_system("--kv-memory", "1KiB")
    assert system.process.wait(200) == 1
    output = system.output()
    assert "The worker exited while starting" in output


def test_a_model_that_does_not_fit_into_the_container_is_refused(home: Path) -> None:
    command = [sys.executable, "-P", "-m", "pagoda.cli", "serve", "--home", str(home), "--port", str(free_port())]
    with memory_group(f"pagoda-test-{os.getpid()}", 400_000_000) as group:
        refused = subprocess.run(group.wrap(command), capture_output=True, text=True, timeout=200)
    assert refused.returncode == 1
    assert "smollm2:135m needs about" in refused.stderr
    assert "within this container's limit of 400 MB" in refused.stderr


def test_a_worker_that_the_kernel_kills_for_memory_is_named(home: Path) -> None:
    command = [sys.executable, "-P", "-m", "pagoda.cli", "serve", "--home", str(home), "--no-check-memory"]
    command += ["--port", str(free_port())]
    with memory_group(f"pagoda-test-{os.getpid()}", 380_000_000) as group:
        killed = subprocess.run(group.wrap(command), capture_output=True, text=True, timeout=200)
    assert killed.returncode == 1
    assert "exited while starting (SIGKILL: the kernel killed it because memory ran out" in killed.stderr
    assert "within this container's limit of 380 MB). To need less memory, serve a smaller model" in killed.stderr


def status(system: System, path: str, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(system.url + path, headers=headers, timeout=200, trust_env=False).status_code


def test_keys_of_a_file_and_nothing_outlives_a_killed_command(start_system: StartSystem, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    user = make_key(file, "user")
    operator = make_key(file, "operator", "--scope", "admin", "--tenant", "ops")
    system = start_system("--host", "0.0.0.0", "--keys-file", str(file))
    system.wait_until_ready()
    assert (status(system, "/v1/models", user), status(system, "/metrics", user)) == (200, 403)
    assert (status(system, "/v1/models", operator), status(system, "/metrics", operator)) == (403, 200)
    assert status(system, "/v1/models", "pgd_unknown") == 401
    subprocess.run([*KEY_COMMAND, "revoke", "user", "--keys-file", str(file)], check=True, timeout=200)
    assert status(system, "/v1/models", user) == 401
    logs = "".join(log.read_text() for log in system.run_directory.glob("*.log"))
    assert "'user'" in logs and user not in logs and operator not in logs
    children = system.children()
    system.process.kill()
    system.process.wait()
    until("all children are gone", lambda: not any(_lives(child) for child in children))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def make_key(file: Path, name: str, *options: str) -> str:
    command = [*KEY_COMMAND, "create", name, "--keys-file", str(file), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=200).stdout.strip()
