"""Scoring of the text through a server's API.

The server needs /tokenize, and prompt_logprobs in /v1/completions. Pagoda and vLLM have both.
"""

from typing import Any

import httpx

from bench.quality.text import spread, windows
from bench.workloads import GREEDY

TIMEOUT_S = 600.0


class ScoredServer:
    """A running server that scores texts."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "",
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect to the server. The base URL ends in /v1. `transport` replaces the network in tests."""
        self._base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_keepalive_connections=0),  # No idle connection is left to close.
            timeout=TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )
        self.model = model or self._get_models()[0]["id"]

    def logprobs(self, text: str, max_windows: int | None = None) -> list[list[float]]:
        """Return the log-probability of each token but the first, window by window."""
        return [self._score(window) for window in spread(self._windows(text), max_windows)]

    def _windows(self, text: str) -> list[list[int]]:
        marked, plain = self._tokenize(text, True), self._tokenize(text, False)
        return windows(marked, marked[0] if marked != plain else None)

    def _tokenize(self, text: str, add_special_tokens: bool) -> list[int]:
        body = {"model": self.model, "prompt": text, "add_special_tokens": add_special_tokens}
        token_ids: list[int] = self._post(self._base_url.removesuffix("/v1") + "/tokenize", body)["tokens"]
        return token_ids

    def _score(self, window: list[int]) -> list[float]:
        body = {"model": self.model, "prompt": window, "max_tokens": 1, **GREEDY, "prompt_logprobs": 0}
        scored = self._post(f"{self._base_url}/completions", body)["choices"][0]["prompt_logprobs"]
        return [
            candidates[str(token_id)]["logprob"] for token_id, candidates in zip(window[1:], scored[1:], strict=True)
        ]

    def _get_models(self) -> Any:
        return self._http.get(f"{self._base_url}/models").raise_for_status().json()["data"]

    def _post(self, url: str, body: dict[str, Any]) -> Any:
        return self._http.post(url, json=body).raise_for_status().json()
