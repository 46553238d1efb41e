"""A gRPC channel whose calls each carry metadata, such as a token.

gRPC's own call credentials are for TLS alone, and its interceptors of streams cost something for each message; this adds to the
call's beginning and to nothing else.
"""

from collections.abc import Callable
from typing import Any

import grpc

Metadata = tuple[tuple[str, str], ...]


class TokenChannel(grpc.aio.Channel):
    def __init__(self, channel: grpc.aio.Channel, metadata: Callable[[], Metadata]) -> None:
        """`metadata` is asked for each call."""
        self._channel = channel
        self._metadata = metadata

    def _with_metadata(self, calling: Any) -> Any:
        def call(*arguments: Any, metadata: Any = None, **options: Any) -> Any:
            return calling(*arguments, metadata=(*(metadata or ()), *self._metadata()), **options)

        return call

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._with_metadata(self._channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._with_metadata(self._channel.unary_stream(*arguments, **options))

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._with_metadata(self._channel.stream_unary(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._with_metadata(self._channel.stream_stream(*arguments, **options))

    async def __aenter__(self) -> "TokenChannel":
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._channel.__aexit__(*exc_info)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()
