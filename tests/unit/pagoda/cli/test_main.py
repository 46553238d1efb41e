"""The `pagoda` command: its output, the arguments that it passes to a tier, and how it fetches a model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pagoda.cli.main import app
from pagoda.distribution import VERSION
from pagoda.models.errors import ModelSourceError
from pagoda.models.pull import ModelPuller
from pagoda.models.sources.progress import OnProgress, Progress, Stage

run = CliRunner().invoke


@pytest.mark.parametrize("word", ["--version", "-v", "version"])
def test_version(word: str) -> None:
    assert run(app, [word]).output == f"pagoda {VERSION}\n"


def test_help_is_a_word_too() -> None:
    assert run(app, ["help"]).output == run(app, ["--help"]).output
    assert run(app, ["help", "pull"]).output == run(app, ["pull", "--help"]).output
    assert "Usage: pagoda key create" in run(app, ["help", "key", "create"], env={"COLUMNS": "200"}).output
    unknown = run(app, ["help", "nothing"])
    assert (unknown.exit_code, unknown.stderr) == (1, "Error: unknown command 'nothing'; for a list: pagoda help\n")


def test_help_of_a_tier_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: calls.append(arguments))
    run(app, ["help", "worker"])
    assert calls == [[sys.executable, "-P", "-m", "worker", "--help"]]


@pytest.mark.parametrize("arguments", [["push", "tiny"], ["push", "--insecure", "x"], ["signin"], ["launch", "claude"]])
def test_what_ollama_has_and_we_have_not_is_one_sentence(arguments: list[str]) -> None:
    refused = run(app, arguments)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: ") and len(refused.stderr.splitlines()) == 1


def test_create_does_not_quantize() -> None:
    refused = run(app, ["create", "mine", "-q", "q4_K_M"])
    assert refused.exit_code == 1 and "--quantize is not supported" in refused.stderr


def test_help_has_a_short_name_but_for_tiers_which_have_their_own() -> None:
    for words in ([], ["run"], ["key", "create"], ["serve"]):
        assert run(app, [*words, "-h"]).output == run(app, [*words, "--help"]).output


def test_help_names_every_command() -> None:
    output = run(app, ["--help"]).output
    assert all(word in output for word in ("serve", "pull", "gateway", "scheduler", "worker"))


@pytest.mark.parametrize("tier", ["gateway", "scheduler", "worker"])
def test_a_tier_gets_the_rest_of_the_line(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: calls.append(arguments))
    run(app, [tier, "--log-level", "debug", "--help"])
    assert calls == [[sys.executable, "-P", "-m", tier, "--log-level", "debug", "--help"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "0"], "--port"),
        (["--port", "http"], "--port"),
        (["--prot", "8000"], "--prot"),
        (["--host", "0.0.0.0"], "--api-key"),
        (["--api-key", ""], "--api-key (or PAGODA_API_KEY) is empty"),
        (["--model", "no such model"], "no such model"),
        (["--model", "./no-such.gguf"], "no-such.gguf"),
    ],
)
def test_serve_refuses_before_it_starts_anything(arguments: list[str], words: str, tmp_path: Path) -> None:
    # In a separate process, because it would serve until a signal if it did not refuse.
    command = [sys.executable, "-m", "pagoda.cli", "serve", "--home", str(tmp_path), *arguments]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "COLUMNS": "200"})
    assert refused.returncode in (1, 2)
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()


def test_pull_tells_its_progress_in_lines_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(puller: ModelPuller, name: str, on_progress: OnProgress, *, insecure: bool) -> None:
        for megabytes in range(101):
            on_progress(Progress(stage=Stage.DOWNLOADING, completed_bytes=megabytes * 10**6, total_bytes=100 * 10**6))
        raise ModelSourceError("the index is gone")

    monkeypatch.setattr(ModelPuller, "pull", pull)
    result = run(app, ["pull", "smollm2:135m", "--home", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        *(f"smollm2:135m: downloading, {share}% of 100 MB" for share in (0, 25, 50, 75, 100)),
        "Error: the index is gone",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "abc"], "'--port': must be an integer (got 'abc')"),
        (["--port", "99999"], "'--port': must be at most 65535 (got '99999')"),
        (["--workers", "0"], "'--workers': must be at least 1 (got '0')"),
        (["--keep-alive", "soon"], "'--keep-alive' (or PAGODA_KEEP_ALIVE, OLLAMA_KEEP_ALIVE): must be a number"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_rejected_option_says_what_is_allowed_and_what_was_given(arguments: list[str], message: str) -> None:
    result = run(app, ["serve", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
