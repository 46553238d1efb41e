"""Tests of scoring over a server's API, with a stub that answers like Pagoda and vLLM."""

import json
from typing import Any

import httpx
import pytest

from bench.quality.served import ScoredServer
from bench.quality.text import WINDOW

BOS = 1


class StubServer(httpx.MockTransport):
    """A server for which each character is a token, and token t has the log-probability -t / 100."""

    def __init__(self, *, adds_bos: bool) -> None:
        super().__init__(self._answer)
        self.prompts: list[list[int]] = []
        self._adds_bos = adds_bos

    def _answer(self, request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/v1/models":
                return httpx.Response(200, json={"data": [{"id": "stub:1b"}]})
            case "/tokenize":
                return httpx.Response(200, json={"tokens": self._tokenize(json.loads(request.content))})
            case "/v1/completions":
                return httpx.Response(200, json={"choices": [self._score(json.loads(request.content))]})
        return httpx.Response(404)

    def _tokenize(self, body: dict[str, Any]) -> list[int]:
        start = [BOS] if self._adds_bos and body["add_special_tokens"] else []
        return start + [ord(character) for character in body["prompt"]]

    def _score(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["model"] == "stub:1b" and body["prompt_logprobs"] == 0
        self.prompts.append(body["prompt"])
        scored = [{str(t): {"logprob": -t / 100, "rank": None, "decoded_token": chr(t)}} for t in body["prompt"][1:]]
        return {"text": "x", "prompt_logprobs": [None, *scored]}


def test_windows_are_sent_as_token_ids_and_scored_but_for_the_first() -> None:
    stub = StubServer(adds_bos=False)
    text = "a" + "b" * (WINDOW - 1) + "c" * WINDOW + "rest"
    logprobs = ScoredServer("http://stub/v1/", transport=stub).logprobs(text)
    assert stub.prompts == [[97] + [98] * (WINDOW - 1), [99] * WINDOW]
    assert logprobs == [[-0.98] * (WINDOW - 1), [-0.99] * (WINDOW - 1)]


def test_bos_begins_each_window_of_a_model_that_wants_it() -> None:
    stub = StubServer(adds_bos=True)
    ScoredServer("http://stub/v1", transport=stub).logprobs("b" * 2 * WINDOW)
    assert stub.prompts == [[BOS] + [98] * (WINDOW - 1)] * 2


def test_a_refusal_is_an_error() -> None:
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        ScoredServer("http://stub", transport=StubServer(adds_bos=False))
