"""Tests of the wheel as a user installs it: in an empty environment, with its dependencies from the package index."""

import json
import signal
import subprocess
import venv
from pathlib import Path

import httpx
import pytest

from pagoda.distribution import VERSION
from pagoda.models.catalogue import DEFAULT_MODEL
from tests.e2e.system import free_port, until
from tests.package.building import Environment, build, clean_environment, copy_repository, run

pytestmark = [pytest.mark.large, pytest.mark.timeout(1800)]

START_S = 600
INSTALL_S = 1200
QUESTION = {
    "model": DEFAULT_MODEL,
    "messages": [{"role": "user", "content": "What is the capital of Peru?"}],
    "temperature": 0,
    "max_tokens": 32,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def installed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    directory = tmp_path_factory.mktemp("package")
    wheel = build(copy_repository(directory / "sources"), directory / "release")
    environment = Environment(path=directory / "venv")
    venv.create(environment.path, symlinks=True, with_pip=True)
    command = [str(environment.python), "-m", "pip", "install", "--quiet", f"{wheel}[all]"]
    run(command, directory=home, home=home, timeout_s=INSTALL_S)
    return environment


def test_doctor_finds_no_problem(installed: Environment, home: Path, tmp_path: Path) -> None:
    findings = json.loads(installed.run("pagoda", "doctor", "--json", home=home, directory=tmp_path))["findings"]
    assert [finding for finding in findings if finding["level"] == "problem"] == []
    assert [finding["text"] for finding in findings if f"pagoda {VERSION}," in finding["text"]]


def test_the_default_model_is_served(installed: Environment, home: Path, tmp_path: Path) -> None:
    """`pagoda serve` fetches the default model into an empty home directory and answers a question."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(installed.path / "bin" / "pagoda"), "serve", "--port", str(port)]
    with (tmp_path / "output").open("w+") as output:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=clean_environment(home), stdout=output, stderr=output, start_new_session=True
        )
        try:
            until("/ready answers 200", lambda: is_ready(server, url, tmp_path / "output"), START_S)
            answer = httpx.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=START_S, trust_env=False)
            assert answer.status_code == 200, answer.text
            assert "Lima" in answer.json()["choices"][0]["message"]["content"]
            server.send_signal(signal.SIGTERM)
            assert server.wait(START_S) == 0, (tmp_path / "output").read_text()
        finally:
            server.kill()
            server.wait()
    assert (home / ".pagoda" / "models").is_dir()


def is_ready(server: "subprocess.Popen[bytes]", url: str, output: Path) -> bool:
    assert server.poll() is None, output.read_text()
    try:
        return httpx.get(f"{url}/ready", timeout=START_S, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
