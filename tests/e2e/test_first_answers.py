"""Tests of a newcomer's first answers from the real model with its defaults: docs, README, and a prompt in a pipe."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.first_answers import ask_all, section
from tests.e2e.system import DEADLINE_S, System, ready_system

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", name="system")
def system_as_users_get_it(home: Path) -> Iterator[System]:
    with ready_system(home, "--sampling-defaults", "model", "--kv-memory", "256MiB", "--ollama-port", "0") as system:
        yield system


def test_the_page_of_first_answers_is_what_the_server_says(system: System) -> None:
    page = (ROOT / "bench" / "results" / "first-answers.md").read_text()
    answers = asyncio.run(ask_all(system.url))
    for answer in answers:
        assert section(answer) in page, (
            f"the server gives another answer to {answer.question!r}: run make first-answers"
        )
        assert (answer.openai.ended, answer.ollama.ended) == ("stop", "stop")


def test_the_first_request_of_the_readme_has_the_answer_that_it_shows(system: System) -> None:
    readme = (ROOT / "README.md").read_text()
    request = re.search(r"curl \S+(/v1/\S+) .*?-d '(.*?)'\n```\n.*?```text\n(.*?)\n```", readme, re.DOTALL)
    assert request is not None
    path, body, shown = request.groups()
    assert json.loads(body)["max_tokens"] <= 200
    response = httpx.post(system.url + path, json=json.loads(body), timeout=DEADLINE_S, trust_env=False)
    choice = response.json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (shown, "stop")


def test_a_prompt_in_a_pipe_is_answered_and_ends(system: System) -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-m", "pagoda.cli", "run"],
        input="hi\n",
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PAGODA_HOST": system.url, "PAGODA_HOME": str(system.home)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_show_and_the_log_say_what_applied(system: System) -> None:
    body = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}]}
    with httpx.Client(base_url=system.url, timeout=DEADLINE_S, trust_env=False) as http:
        answer = http.post("/v1/chat/completions", json=body)
        shown = http.post("/api/show", json={"model": "smollm2:135m"}).json()["sampling_defaults"]
    assert answer.is_success
    assert shown["temperature"] == {"value": 0.2, "source": "catalogue"}
    assert shown["repeat_penalty"] == {"value": 1.05, "source": "catalogue"}
    log = (system.run_directory / "gateway.log").read_text()
    line = next(line for line in log.splitlines() if answer.headers["x-request-id"] in line and "finished" in line)
    assert "'temperature': 0.2" in line and "'catalogue': ['temperature', 'top_p'" in line
