"""Tests of starting peers. A peer's failure becomes a line of the result and does not end the run."""

import os
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from bench.peers import command, installation, run, vllm_cpu
from bench.peers.comparison import Comparison
from bench.peers.contestant import Contestant, Grounds
from bench.peers.errors import PeerError
from bench.peers.installation import Packages
from bench.peers.llama_cpp import link_libraries, server_arguments
from bench.peers.roofline import Ceilings, ModelSize
from bench.peers.rows import Row, rows
from bench.peers.run import Course, measure, score
from bench.peers.serving import Launch

ALONE, EIGHT, *_ = rows(scale=0)

SERVER = """
import http.server, json, os, sys

answers = iter(range(NUM_ANSWERS))

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(json.dumps({"data": [{"id": "stub"}]}).encode())

    def do_POST(self):
        if next(answers, None) is None:
            os._exit(1)
        self.rfile.read(int(self.headers["Content-Length"]))
        usage = {"prompt_tokens": 128, "completion_tokens": 64}
        events = [{"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}, {"choices": [], "usage": usage}]
        body = "".join(f"data: {json.dumps(event)}\\n\\n" for event in events) + "data: [DONE]\\n\\n"
        self.answer(body.encode(), "text/event-stream")

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""
"""Source of an OpenAI server that gives the same answer to each request and exits after NUM_ANSWERS of them."""


def server(num_answers: int = 1000) -> str:
    return SERVER.replace("NUM_ANSWERS", str(num_answers))


def contestant(code: str, perplexity: Callable[[str], float] = lambda base_url: 12.5) -> Contestant:
    launch = Launch(command=(sys.executable, "-c", code), ready_path="/health")
    return Contestant(name="stub", bytes_per_weight=1.0, launch=lambda row: launch, perplexity=perplexity)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "QUIET_CHECK_S", 0.02)


def course(logs: Path, *of: Row) -> Course:
    size = ModelSize(layer_weights=10**8, head_weights=10**6, kv_elements_per_token=100)
    ceilings = Ceilings(read_bytes_per_s=1e10, int8_operations_per_s=1e11)
    return Course(rows=of, logs=logs, model=size, ceilings=ceilings)


def test_a_server_is_measured_in_each_row_and_scored(tmp_path: Path) -> None:
    one, two = measure(contestant(server()), course(tmp_path, ALONE, EIGHT), round_number=1)
    assert (one.row, two.row, one.round_number) == (ALONE.name, EIGHT.name, 1)
    assert two.result is not None and (two.result.num_requests, two.result.num_errors) == (8, 0)
    assert one.of_roofline is not None and one.of_roofline > 0
    assert one.used_by_others is not None and 0 <= one.used_by_others <= 1
    standing = score(contestant(server()), course(tmp_path, ALONE))
    assert (standing.perplexity, standing.failure) == (12.5, None)


def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read_end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with_child = f"import subprocess; subprocess.Popen(['sleep', '600'], stdout=open({str(pipe)!r}, 'wb'))" + server()
    assert score(contestant(with_child), course(tmp_path, ALONE)).failure is None
    os.set_blocking(read_end, True)
    assert os.read(read_end, 1) == b""  # The end of file: no process has the other end open.
    os.close(read_end)


def test_a_server_that_does_not_start_fails_in_each_row_with_its_words(tmp_path: Path) -> None:
    broken = contestant("raise SystemExit('Illegal instruction')")
    measurements = list(measure(broken, course(tmp_path, ALONE, EIGHT), round_number=0))
    assert [one.row for one in measurements] == [ALONE.name, EIGHT.name]
    assert all(one.failure and "status 1: Illegal instruction" in one.failure for one in measurements)
    assert "Illegal instruction" in (score(broken, course(tmp_path, ALONE)).failure or "")


def test_a_server_that_dies_keeps_the_rows_it_had(tmp_path: Path) -> None:
    one, two = measure(contestant(server(num_answers=2)), course(tmp_path, ALONE, EIGHT), round_number=0)
    assert one.result is not None and one.failure is None
    assert two.result is None and two.failure


def test_a_server_that_cannot_be_scored_keeps_its_speed(tmp_path: Path) -> None:
    def fails(base_url: str) -> float:
        raise PeerError("no log-probabilities")

    standing = score(contestant(server(), fails), course(tmp_path, ALONE))
    assert standing.perplexity is None and standing.failure == "PeerError: no log-probabilities"


def test_a_peer_that_cannot_be_installed_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(grounds: Grounds) -> list[Contestant]:
        raise PeerError("pip install failed: no compiler")

    monkeypatch.setattr(command, "FIELD", {"absent": absent, "there": lambda grounds: [contestant("")]})
    there, missing = command.gather(["absent", "there"], None)  # type: ignore[arg-type]  # neither function uses the grounds
    assert [one.name for one in there] == ["stub"]
    assert Comparison(standings=missing, measurements=()).standings[0].failure == "pip install failed: no compiler"


def test_a_server_that_nobody_knows_is_named() -> None:
    with pytest.raises(typer.BadParameter, match=r"unknown servers: ollama; choose from Pagoda, llama\.cpp, vLLM"):
        command.peers(servers="Pagoda,ollama")


def test_an_environment_is_made_once_and_again_when_it_should_hold_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []

    def create(directory: Path, **options: object) -> None:
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        (directory / "bin" / "python").touch()
        done.append("create")

    monkeypatch.setattr(venv, "create", create)
    monkeypatch.setattr(installation, "_pip", lambda python, *arguments: done.append(" ".join(arguments)))
    for _ in range(2):
        python = installation.install(tmp_path, Packages(install=("peer==1", "torch"), remove=("vision",)))
        assert python == tmp_path / "bin" / "python"
        assert done == ["create", "install peer==1 torch", "uninstall --yes vision"]
    installation.install(tmp_path, Packages(install=("peer==2",)))
    assert done[3:] == ["create", "install peer==2"]


def test_pips_last_words_are_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def create(directory: Path, **options: object) -> None:
        (directory / "bin").mkdir()
        (directory / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(venv, "create", create)
    with pytest.raises(PeerError, match=r"pip install failed: .*no-such-file"):
        installation.install(tmp_path, Packages(install=(str(tmp_path / "no-such-file.whl"),)))
    assert not (tmp_path / installation.STAMP).exists()


def test_a_command_is_shown_without_the_places_of_its_files() -> None:
    command = ("/home/me/.peers/bin/serve", "--model", "/home/me/a model.gguf", "--threads", "2")
    launch = Launch(command=command, ready_path="/health", environment={"CACHE": "/home/me/.peers/cache"})
    assert run.shown(launch) == "CACHE=cache serve --model 'a model.gguf' --threads 2"


def test_llama_cpp_finds_its_libraries_by_their_major_version(tmp_path: Path) -> None:
    for name in ("libggml-base.so.0.26.0", "libllama.so.0.6.0", "libllama-cli-impl.so", "llama-server"):
        (tmp_path / name).write_text(name)
    for _ in range(2):
        link_libraries(tmp_path)
        links = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_symlink()}
        assert links == {"libggml-base.so.0": "libggml-base.so.0.26.0", "libllama.so.0": "libllama.so.0.6.0"}


def test_llama_cpp_has_a_slot_for_each_request_with_room_for_the_longest() -> None:
    arguments = server_arguments(EIGHT, num_threads=2)
    assert arguments[arguments.index("--parallel") + 1] == "8"
    assert int(arguments[arguments.index("--ctx-size") + 1]) == 8 * 256
    assert arguments[arguments.index("--threads") + 1] == "2"


@pytest.mark.parametrize(
    ("flags", "dtypes"),
    [("fma avx2", ("bfloat16", "float32")), ("avx512f avx512_bf16", ("bfloat16",)), ("", ("bfloat16", "float32"))],
)
def test_vllm_also_tries_float32_where_bfloat16_is_emulated(flags: str, dtypes: tuple[str, ...]) -> None:
    assert vllm_cpu.dtypes(flags) == dtypes
