"""`pagoda run` as a process: on a terminal with real keys, and in a pipe."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.ollama_server import OllamaServer, ollama_server
from tests.fakes.terminal import CTRL_C, CTRL_D, ENTER, UP, Terminal
from tests.fakes.tiny_model import write_tiny_gguf

PROMPT = ">>> "


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with ollama_server() as server:
        yield server


@pytest.fixture
def terminal(server: OllamaServer, tmp_path: Path) -> Iterator[Terminal]:
    environment = {"PAGODA_HOST": server.url, "PAGODA_HOME": str(tmp_path)}
    with Terminal(["run", "tiny"], environment) as terminal:
        terminal.expect(PROMPT)
        yield terminal


def pipe(server: OllamaServer, home: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PAGODA_HOST": server.url, "PAGODA_HOME": str(home)}
    command = [sys.executable, "-P", "-m", "pagoda.cli", "run", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=200, env=environment)


def test_a_question_and_its_answer(terminal: Terminal, server: OllamaServer, tmp_path: Path) -> None:
    terminal.press("What is a pagoda?" + ENTER)
    terminal.expect("Hello there.")
    terminal.expect(PROMPT)
    terminal.press("/bye" + ENTER)
    assert terminal.wait() == 0
    assert server.bodies("/api/chat")[0]["messages"] == [{"role": "user", "content": "What is a pagoda?"}]
    history = tmp_path / "state" / "chat_history"
    assert "+What is a pagoda?" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_the_answer_and_its_generation(terminal: Terminal, server: OllamaServer) -> None:
    server.goes_on = True
    terminal.press("Tell me everything." + ENTER)
    terminal.expect("Hello there. more more")
    terminal.press(CTRL_C)
    terminal.expect(PROMPT)
    assert server.broken.wait(200)
    server.goes_on = False
    terminal.press("And now?" + ENTER)
    terminal.expect("Hello there.")
    terminal.expect(PROMPT)
    assert [message["role"] for message in server.bodies("/api/chat")[1]["messages"]] == ["user", "assistant", "user"]


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.press("never mind" + CTRL_C)
    terminal.expect("Use Ctrl + d or /bye to exit.")
    terminal.expect(PROMPT)
    terminal.press(CTRL_D)
    assert terminal.wait() == 0


def test_several_lines_in_quotes(terminal: Terminal, server: OllamaServer) -> None:
    terminal.press('"""one' + ENTER)
    terminal.expect("...")
    terminal.press('two"""' + ENTER)
    terminal.expect("Hello there.")
    assert server.bodies("/api/chat")[0]["messages"][0]["content"] == "one\ntwo"


def test_pasted_lines_are_one_message(terminal: Terminal, server: OllamaServer) -> None:
    terminal.press("\x1b[200~one\ntwo\x1b[201~" + ENTER)
    terminal.expect("Hello there.")
    assert server.bodies("/api/chat")[0]["messages"][0]["content"] == "one\ntwo"


def test_the_last_line_comes_back_for_editing(terminal: Terminal, server: OllamaServer) -> None:
    terminal.press("one" + ENTER)
    terminal.expect("Hello there.")
    terminal.expect(PROMPT)
    terminal.press(UP + " more" + ENTER)
    terminal.expect("Hello there.")
    assert server.bodies("/api/chat")[1]["messages"][-1]["content"] == "one more"


def test_a_piped_prompt_is_answered_plainly(server: OllamaServer, tmp_path: Path) -> None:
    done = pipe(server, tmp_path, "tiny", "Sum it up.", "--verbose", stdin="A long text.")
    assert (done.returncode, done.stdout) == (0, "Hello there.\n")
    assert done.stderr.startswith("total duration:       2.5s\n")
    assert server.bodies("/api/generate")[-1] == {"model": "tiny", "prompt": "A long text. Sum it up."}


def test_a_piped_answer_has_a_form_and_no_thinking(server: OllamaServer, tmp_path: Path) -> None:
    server.thoughts = ["Let me see."]
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    done = pipe(server, tmp_path, "--think", "tiny", "Hi", "--format", str(schema))
    assert (done.stdout, done.stderr) == ("Hello there.\n", "Thinking...\nLet me see.\n...done thinking.\n\n")
    asked = {"model": "tiny", "prompt": "Hi", "format": {"type": "object"}, "think": True}
    assert server.bodies("/api/generate")[-1] == asked
    done = pipe(server, tmp_path, "tiny", "Hi", "--think=high", "--hidethinking", "--format", "json")
    assert (done.stdout, done.stderr) == ("Hello there.\n", "")
    assert server.bodies("/api/generate")[-1] == asked | {"format": "json", "think": "high"}


def test_the_model_may_be_left_to_the_server(server: OllamaServer, tmp_path: Path) -> None:
    assert pipe(server, tmp_path, stdin="Hi").stdout == "Hello there.\n"
    assert server.bodies("/api/generate")[-1]["model"] == "tiny:latest"


@pytest.mark.parametrize("is_pagoda", [True, False])
def test_a_missing_model_is_pulled_first(server: OllamaServer, tmp_path: Path, is_pagoda: bool) -> None:
    server.is_pagoda = is_pagoda
    server.pullable = {"new"}
    done = pipe(server, tmp_path, "new", "Hi")
    assert (done.returncode, done.stdout) == (0, "Hello there.\n")
    assert done.stderr.splitlines() == [f"new: downloading, {share}% of 100 B" for share in (0, 50, 100)]
    failed = pipe(server, tmp_path, "other", "Hi")
    assert failed.stderr == "Error: pull model manifest: the model 'other' is unknown\n"


def test_a_pull_of_several_files_is_one_download(server: OllamaServer, tmp_path: Path) -> None:
    server.pullable = {"new"}
    server.pull_steps = [("a", 60, 0), ("b", 40, 0), ("a", 60, 60), ("b", 40, 15), ("b", 40, 40)]
    done = pipe(server, tmp_path, "new", "Hi")
    shares = [line.removeprefix("new: downloading, ") for line in done.stderr.splitlines()]
    assert shares == ["0% of 60 B", "0% of 100 B", "50% of 100 B", "75% of 100 B", "100% of 100 B"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "Hi"], "pull model manifest: the model 'nothing' is unknown"),
        (["./nothing.gguf", "Hi"], "no such file or directory: 'nothing.gguf'"),
        (["tiny", "Hi", "--format", "yaml"], "the format must be json, a JSON Schema, or a file with one (got 'yaml'"),
        (["tiny", "Hi", "--format", "{"], "the format is not JSON"),
        (["tiny", "Hi", "--think=much"], "--think must be true, false, low, medium, high, max (got 'much')"),
        (["tiny", "Hi", "--server", "127.0.0.1:1"], "no server answers at http://127.0.0.1:1; start one: pagoda serve"),
    ],
)
def test_errors_are_one_sentence(server: OllamaServer, tmp_path: Path, arguments: list[str], words: str) -> None:
    failed = pipe(server, tmp_path, *arguments)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: ") and words in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_a_file_is_given_to_the_server(server: OllamaServer, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "My Model v1.gguf")
    done = pipe(server, tmp_path / "home", str(path), "Hi", "--insecure")
    assert (done.returncode, done.stdout) == (0, "Hello there.\n"), done.stderr
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert server.blobs == {digest: path.stat().st_size}
    (created,) = server.bodies("/api/create")
    assert created == {"model": "my-model-v1", "files": {"My Model v1.gguf": digest}}
    assert server.bodies("/api/generate")[-1]["model"] == "my-model-v1"


def test_all_parts_of_a_model_are_given_to_the_server(server: OllamaServer, tmp_path: Path) -> None:
    first = write_tiny_gguf(tmp_path / "My Model v1.gguf", tensors_per_part=12)
    parts = [first, first.with_name("My Model v1-00002-of-00002.gguf")]
    done = pipe(server, tmp_path / "home", str(parts[1]), "Hi")
    assert (done.returncode, done.stdout) == (0, "Hello there.\n"), done.stderr
    files = {path.name: f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in parts}
    assert server.blobs == {files[path.name]: path.stat().st_size for path in parts}
    assert server.bodies("/api/create") == [{"model": "my-model-v1", "files": files}]


def test_a_file_that_the_server_has_is_not_given_again(server: OllamaServer, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "other.gguf")
    server.digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert pipe(server, tmp_path / "home", str(path), "Hi").stdout == "Hello there.\n"
    assert server.blobs == {} and server.bodies("/api/create") == []
    assert server.bodies("/api/generate")[-1]["model"] == "tiny:latest"


def test_a_file_takes_no_name_from_another_model(server: OllamaServer, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert pipe(server, tmp_path / "home", str(path), "Hi").stdout == "Hello there.\n"
    (created,) = server.bodies("/api/create")
    assert created["model"] == f"tiny:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def test_ollamas_variable_names_a_server(server: OllamaServer, tmp_path: Path) -> None:
    environment = os.environ | {"OLLAMA_HOST": server.url.removeprefix("http://"), "PAGODA_HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "pagoda.cli", "run", "tiny", "Hi"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=200, env=environment)
    assert (done.returncode, done.stdout) == (0, "Hello there.\n")


def test_who_stops_reading_is_no_error(server: OllamaServer, tmp_path: Path) -> None:
    server.goes_on = True
    environment = os.environ | {"PAGODA_HOST": server.url, "PAGODA_HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "pagoda.cli", "run", "tiny", "Hi"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert server.broken.wait(200)
