"""Tests of a dozen wrong requests: each is answered immediately, with the right status, in the dialect's form."""

from typing import Any

import httpx
import pytest

from tests.e2e.system import System

MODEL = "smollm2:135m"
CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]

WRONG: list[tuple[str, str, bytes | dict[str, Any], int, str]] = [
    ("broken JSON", CHAT, b'{"model": ', 400, "JSON"),
    ("100,000 nested brackets", CHAT, b"[" * 100_000, 400, ""),
    ("invalid UTF-8", CHAT, b'{"model": "\xff\xfe"}', 400, ""),
    ("a 10 MB body", CHAT, b'{"model": "' + b"x" * 10_000_000 + b'"}', 413, ""),
    ("an unknown model", CHAT, {"model": "gpt-17", "messages": HI}, 404, "gpt-17"),
    ("no messages", CHAT, {"model": MODEL, "messages": []}, 400, "messages"),
    ("a wrong type", CHAT, {"model": MODEL, "messages": HI, "max_tokens": "many"}, 400, "max_tokens"),
    ("temperature out of range", CHAT, {"model": MODEL, "messages": HI, "temperature": 3}, 400, "temperature"),
    ("top_p out of range", CHAT, {"model": MODEL, "messages": HI, "top_p": 1.5}, 400, "top_p"),
    ("no tokens wanted", CHAT, {"model": MODEL, "messages": HI, "max_tokens": 0}, 400, "max_tokens"),
    ("an unknown role", CHAT, {"model": MODEL, "messages": [{"role": "king", "content": "Hi"}]}, 400, "role"),
    ("a field without support", CHAT, {"model": MODEL, "messages": HI, "grammar": "x"}, 400, "grammar"),
    ("an id outside the vocabulary", "/v1/completions", {"model": MODEL, "prompt": [10**6]}, 400, "1000000"),
    ("too long a prompt", "/v1/completions", {"model": MODEL, "prompt": [1000] * 9000}, 400, "9000"),
    ("an unknown path", "/v1/embedings", {"model": MODEL}, 404, ""),
    ("an unknown model", "/api/chat", {"model": "gpt-17", "messages": HI}, 404, "gpt-17"),
    ("broken JSON", "/api/generate", b"{", 400, ""),
    ("a wrong type", "/api/generate", {"model": MODEL, "prompt": 7}, 400, "prompt"),
    ("no model", "/api/generate", {"prompt": "Hi"}, 404, "model"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"), [case[1:] for case in WRONG], ids=[f"{case[1]} {case[0]}" for case in WRONG]
)
def test_a_wrong_input(path: str, body: bytes | dict[str, Any], status: int, words: str, system: System) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{system.url}{path}", headers=headers, timeout=200, trust_env=False, **content)
    assert response.status_code == status
    error = response.json()["error"]
    if path.startswith("/api"):
        message = error
    else:
        assert set(error) == {"message", "type", "param", "code"}
        message = error["message"]
    assert isinstance(message, str) and words in message
    assert response.headers["x-request-id"]


def test_a_wrong_method(system: System) -> None:
    assert httpx.get(f"{system.url}{CHAT}", timeout=200, trust_env=False).status_code == 405
