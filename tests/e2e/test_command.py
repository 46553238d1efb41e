"""Tests of the command against the real system: a chat with its own server, and commands for a running one."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.e2e.system import System, until
from tests.fakes.native_code import give_native_code
from tests.fakes.terminal import CTRL_C, CTRL_D, ENTER, Terminal
from tests.fakes.tiny_model import write_tiny_gguf

PROMPT = ">>> "


def command(environment: Mapping[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "pagoda.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, **environment},
    )


def say(terminal: Terminal, *lines: str) -> None:
    """Type each line at its prompt. A Ctrl-D typed earlier would be lost when the prompt takes over the terminal."""
    for line in lines:
        terminal.expect(PROMPT)
        terminal.press(line if line == CTRL_D else line + ENTER)


# A random answer may have any text, and thousands of tokens.
GREEDILY = ("/set nohistory", "/set parameter temperature 0")


@pytest.fixture
def environment(system: System) -> dict[str, str]:
    return {"PAGODA_HOST": system.url, "PAGODA_HOME": str(system.home)}


def test_ps_show_and_stop(environment: Mapping[str, str]) -> None:
    (running,) = json.loads(command(environment, "ps", "--json").stdout)["models"]
    assert running["name"] == "smollm2:135m"
    assert "100% CPU" in command(environment, "ps").stdout
    assert "    parameters          134.5M\n" in command(environment, "show", "smollm2").stdout
    command(environment, "stop", "smollm2:135m")
    until("the model is unloaded", lambda: not json.loads(command(environment, "ps", "--json").stdout)["models"])


def test_a_prompt_is_answered(environment: Mapping[str, str]) -> None:
    with Terminal(["run", "smollm2:135m", "--verbose"], environment) as terminal:
        say(terminal, *GREEDILY, "What is the capital of Japan?")
        terminal.expect("Tokyo")
        terminal.expect("eval rate:")
        say(terminal, CTRL_D)
        assert terminal.wait() == 0


def test_a_piped_answer_has_the_form_that_was_asked(environment: Mapping[str, str]) -> None:
    properties = {"age": {"type": "integer", "maximum": 99}}
    schema = {"type": "object", "properties": properties, "required": ["age"], "additionalProperties": False}
    answered = command(environment, "run", "smollm2:135m", "Ada is 36.", "--format", json.dumps(schema))
    assert json.loads(answered.stdout)["age"] <= 99 and answered.stderr == ""
    refused = command(environment, "run", "smollm2:135m", "Hi", "--think")
    assert refused.returncode == 1 and "does not support thinking" in refused.stderr


def test_a_file_is_given_to_the_server_and_answers(environment: Mapping[str, str], tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "Tiny Random.gguf")
    answered = command(environment, "run", str(path), "Hi")
    assert answered.returncode == 0, answered.stderr
    names = {model["name"] for model in json.loads(command(environment, "ps", "--json").stdout)["models"]}
    assert "tiny-random:latest" in names
    command(environment, "stop", "tiny-random")
    assert command(environment, "rm", "tiny-random").returncode == 0


def test_ctrl_c_frees_the_worker_and_the_chat_goes_on(
    environment: Mapping[str, str], system: System, tmp_path: Path
) -> None:
    with Terminal(["run"], environment) as terminal:
        say(terminal, *GREEDILY, "Tell a story of a thousand words about a king.")
        terminal.expect("king.")  # the echo of the typed line
        until("a sequence runs", lambda: system.metric("vllm:num_requests_running") > 0)
        terminal.press(CTRL_C)
        until("no sequence runs", lambda: system.metric("vllm:num_requests_running") == 0)
        say(terminal, "/clear")
        terminal.expect("Cleared session context")
        say(terminal, "What is the capital of Japan?")
        terminal.expect("Tokyo")
        say(terminal, CTRL_D)
        assert terminal.wait() == 0


def test_a_chat_starts_a_server_where_none_runs_and_ends_it(home: Path, tmp_path: Path) -> None:
    """A chat starts a server if none has its model. The model is new, so that no server at the default address can have it."""
    environment = {"PAGODA_HOME": str(give_native_code(tmp_path))}
    (tmp_path / "models").mkdir()
    weights = next((home / "models" / "smollm2" / "135m").glob("*.gguf"))
    (tmp_path / "Modelfile").write_text(f"FROM {weights}\nSYSTEM You are a pirate.\nPARAMETER num_predict 8\n")
    made = command(environment, "create", "e2e-pirate", "-f", str(tmp_path / "Modelfile"))
    assert made.returncode == 0, made.stderr
    with Terminal(["run", "e2e-pirate"], environment) as terminal:
        terminal.expect("starting one for this chat")
        say(terminal, "/show system")
        children = psutil.Process(terminal.process.pid).children(recursive=True)
        assert len(children) >= 4
        terminal.expect("You are a pirate.")
        say(terminal, "/set parameter temperature 0", "/set verbose", "Hello!")
        terminal.expect("eval count:           8 token(s)")
        say(terminal, "/bye")
        assert terminal.wait() == 0
    assert not any(child.is_running() for child in children)
