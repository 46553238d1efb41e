"""One request that is open at the scheduler: a bounded buffer of its events, and all that a resumption would need.

The session's reader puts events in and never waits for a slow consumer: a buffer that overflows ends this request only.
Knows nothing about gRPC and text.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, Self

from gateway.errors import ErrorKind, GatewayError
from gateway.inference import Event, Finished, InferenceRequest, Tokens


class RequestCommands(Protocol):
    """What an open request tells the scheduler about itself."""

    def finish(self, request_id: str, sample_index: int, num_tokens: int) -> None: ...

    def cancel(self, request_id: str) -> None: ...


class OpenRequest:
    """Iterate over it for the events; it ends when each sample has finished, or raises the one error of the request."""

    def __init__(
        self,
        request: InferenceRequest,
        commands: RequestCommands,
        *,
        max_buffered_events: int,
        on_closed: Callable[[str], None],
    ) -> None:
        self.request = request
        self.generated: tuple[list[int], ...] = tuple([] for _ in range(request.num_samples))
        """The token ids of each sample so far. With `request` they are what a resumption sends."""
        self._commands = commands
        self._on_closed = on_closed
        self._max_buffered_events = max_buffered_events
        self._events: deque[Event] = deque()
        self._waiting: asyncio.Future[None] | None = None
        """The consumer's, while there is nothing for it."""
        self._unfinished = set(range(request.num_samples))
        self._finished_here: set[int] = set()
        self._error: GatewayError | None = None
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._events.popleft()

    def finish(self, sample_index: int, num_tokens: int) -> None:
        """A stop string ended the sample after `num_tokens` tokens. Later tokens of it are dropped; `Finished` still comes."""
        if not self._closed:
            self._finished_here.add(sample_index)
            self._commands.finish(self.request.request_id, sample_index, num_tokens)

    def cancel(self) -> None:
        """The consumer left. No more events; allowed at any time, any number of times."""
        if not self._closed:
            self._commands.cancel(self.request.request_id)
            self._close()

    def deliver(self, event: Event) -> None:
        """For the session's reader."""
        if self._closed:
            return
        if isinstance(event, Tokens):
            if not self._keep(event):
                return
        elif isinstance(event, Finished):
            self._unfinished.discard(event.sample_index)
        self._events.append(event)
        self._wake()
        if not self._unfinished:
            self._close()

    def fail(self, error: GatewayError) -> None:
        """For the session's reader: the request ended with this error, after the events that came before it."""
        if not self._closed:
            self._error = error
            self._close()

    def _keep(self, tokens: Tokens) -> bool:
        """Record the tokens; say whether the consumer shall see them."""
        if tokens.sample_index in self._finished_here:
            return False
        generated = self.generated[tokens.sample_index]
        if tokens.sequence_number != len(generated):
            self._abandon(
                GatewayError(
                    ErrorKind.INTERNAL,
                    f"The scheduler sent token {tokens.sequence_number} of a sample where {len(generated)} was due.",
                )
            )
            return False
        generated.extend(tokens.token_ids)
        if len(self._events) < self._max_buffered_events:
            return True
        self._events.clear()
        self._abandon(GatewayError(ErrorKind.CLIENT_CLOSED, "The client reads too slowly; its request was cancelled."))
        return False

    def _abandon(self, error: GatewayError) -> None:
        self._commands.cancel(self.request.request_id)
        self.fail(error)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _close(self) -> None:
        self._closed = True
        self._wake()
        self._on_closed(self.request.request_id)
