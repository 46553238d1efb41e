"""The HTTP client of huggingface_hub in this process, which lets listings be read within Pagoda's limits.

The library's own requests for listings have no time limit, wait as long as a server asks, and send the token to any host that a
listing names as its next page. It takes another HTTP client only for the whole process. The client is therefore set once, and
acts as the library's own except in the block of `answering`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx2
from huggingface_hub import is_offline_mode, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled

Answer = Callable[[httpx2.Request], httpx2.Response]
"""Function that answers a request of the library."""

_answer: ContextVar[Answer | None] = ContextVar("_answer", default=None)


@contextmanager
def answering(answer: Answer) -> Iterator[None]:
    """Let `answer` answer the library's requests in this thread while the block runs. What it raises ends the library's call."""
    token = _answer.set(answer)
    try:
        yield
    finally:
        _answer.reset(token)


class _Session(httpx2.Client):
    """The library's HTTP client. Pulls in several threads share only this object, which keeps nothing of them."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if (answer := _answer.get()) is not None:
            return answer(request)
        if is_offline_mode():
            raise OfflineModeIsEnabled(f"{request.url} cannot be asked: HF_HUB_OFFLINE is set")
        return super().send(request, **options)


# The library's own client follows redirects and has no time limit.
set_client_factory(lambda: _Session(follow_redirects=True, timeout=None))
