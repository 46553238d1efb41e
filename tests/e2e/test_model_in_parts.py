"""Tests of a model in several GGUF files, served by the real system and run from the command line."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.system import System, ready_system
from tests.fakes.native_code import give_native_code
from tests.fakes.tiny_model import write_tiny_gguf

PARTS, WHOLE = "parts", "whole"


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with an empty store, and beside it the same model in one file and in parts."""
    own_home = give_native_code(tmp_path_factory.mktemp("h"))
    write_tiny_gguf(own_home / f"{WHOLE}.gguf")
    write_tiny_gguf(own_home / f"{PARTS}.gguf", tensors_per_part=8, first_part_is_empty=True)
    return own_home


@pytest.fixture(scope="module")
def system(own_home: Path) -> Iterator[System]:
    # Any part may be named.
    paths = [own_home / f"{PARTS}-00002-of-00004.gguf", own_home / f"{WHOLE}.gguf"]
    models = [argument for path in paths for argument in ("--model", str(path))]
    with ready_system(own_home, *models, "--workers", "1", "--kv-memory", "8MiB", "--ollama-port", "0") as system:
        yield system


def complete(system: System, model: str) -> tuple[str, list[float]]:
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(
            model=model, prompt="the quick fox", max_tokens=12, temperature=0, logprobs=1
        )
    (choice,) = answer.choices
    assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
    return choice.text, [number for number in choice.logprobs.token_logprobs if number is not None]


def test_parts_answer_like_the_whole_file(system: System) -> None:
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == [PARTS, WHOLE]
    text, logprobs = complete(system, PARTS)
    assert (text, logprobs) == complete(system, WHOLE)
    assert len(logprobs) == 12


def test_the_command_uploads_all_parts(system: System, own_home: Path, tmp_path: Path) -> None:
    """The command has a home of its own. The server has no model with these bytes, so all parts are uploaded."""
    write_tiny_gguf(tmp_path / "other.gguf", seed=1, tensors_per_part=5)
    command = [sys.executable, "-P", "-m", "pagoda.cli", "run", str(tmp_path / "other-00003-of-00005.gguf"), "Hi"]
    environment = os.environ | {"PAGODA_HOST": system.url, "PAGODA_HOME": str(tmp_path / "home")}
    done = subprocess.run([*command, "--verbose"], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0 and "eval count" in done.stderr, done.stderr
    stored = sorted(path.name for path in (own_home / "models" / "other" / "latest").iterdir())
    assert stored == ["manifest.json", *(f"other-0000{number}-of-00005.gguf" for number in range(1, 6))]
