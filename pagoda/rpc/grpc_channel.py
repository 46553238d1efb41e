"""Opening gRPC channels that show their tier's token with each call, and the transport options that both ends of one share.

Callers make their own stubs.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pagoda.rpc.transport_security import ChannelFiles, Metadata, TransportSecurity

logger = logging.getLogger(__name__)

LOCAL_ONLY = TransportSecurity()
"""Clear text, within this machine."""
# Tiers that start together need a moment to find each other.
_PATIENCE_S = 5.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""What a client takes: a step may bring a worker many prompts at once."""
MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""What a server takes: five million token ids and more, many times what a model reads."""

Options = list[tuple[str, int | str]]

CLIENT_SIZE_OPTIONS: Options = [
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
]
SERVER_SIZE_OPTIONS: Options = [
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
]
# A peer that vanished without closing (a pulled cable, a frozen host) is found by these pings within half a minute.
KEEPALIVE_OPTIONS: Options = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
# The other side of a restarted process is back within seconds; gRPC's own back-off would wait up to two minutes.
_RECONNECT_OPTIONS: Options = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Where names are given out anew, as a cluster's are, it may be at another address; gRPC would ask for that twice a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]
_LOCAL_OPTIONS: Options = [
    # Channels of one process to the same address would else share a connection, and with it the fate of one stream.
    ("grpc.use_local_subchannel_pool", 1),
    # An http_proxy in the environment is for the world outside, never for our own tiers.
    ("grpc.enable_http_proxy", 0),
]


def open_channel(address: str, security: TransportSecurity = LOCAL_ONLY) -> grpc.aio.Channel:
    """To `unix:/path.sock` or `host:port`. It connects when first used, and after each loss, always with the certificates that it
    was opened with. Raises InsecureAddressError, and OSError where their files cannot be read."""
    return _open(address, security, security.channel_files(address))


def _open(address: str, security: TransportSecurity, files: ChannelFiles | None) -> grpc.aio.Channel:
    return TokenChannel(_transport(address, security, files), lambda: security.call_metadata(address))


def _transport(address: str, security: TransportSecurity, files: ChannelFiles | None) -> grpc.aio.Channel:
    options = CLIENT_SIZE_OPTIONS + KEEPALIVE_OPTIONS + _RECONNECT_OPTIONS + _LOCAL_OPTIONS
    if files is None:
        return grpc.aio.insecure_channel(address, options)
    if security.server_name:
        options = [*options, ("grpc.ssl_target_name_override", security.server_name)]
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*files), options)


class LastingChannel:
    """A channel for as long as its process lives, which is longer than certificates do.

    gRPC reads a channel's certificates when it is opened, so `current` is another one once the files have changed. It is exchanged
    in `until_ready` only, which is called when the connection is lost.
    """

    def __init__(self, address: str, security: TransportSecurity, *, patience_s: float = _PATIENCE_S) -> None:
        self._address = address
        self._security = security
        self._patience_s = patience_s
        self._files = security.channel_files(address)
        self.current = _open(address, security, self._files)

    async def until_ready(self) -> None:
        """For ever if need be. An outage is one line in the log, which says why if gRPC does."""
        is_told = False
        while True:
            await self._renew()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s):
                    return await self.current.channel_ready()
            if not is_told:
                is_told = await self._tell()

    async def close(self) -> None:
        await self.current.close()

    async def _renew(self) -> None:
        try:
            files = self._security.channel_files(self._address)
        except OSError as error:
            logger.warning("cannot read the certificate again, the old one stays", extra={"reason": str(error)})
            return
        if files != self._files:
            logger.info("certificate renewed", extra={"address": self._address})
            old, self.current, self._files = self.current, _open(self._address, self._security, files), files
            await old.close()

    async def _tell(self) -> bool:
        """Whether there was something to tell."""
        check = health_pb2_grpc.HealthStub(self.current).Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)
        try:
            await check
        except grpc.aio.AioRpcError as error:
            reason = self._security.explain(self._address, error.details() or error.code().name)
            logger.warning("cannot connect, trying on", extra={"address": self._address, "reason": reason})
            return True
        return False


class TokenChannel(grpc.aio.Channel):
    """A channel whose calls each carry metadata, such as a token.

    gRPC's own call credentials are for TLS alone, and its interceptors of streams cost something for each message; this adds to
    the call's beginning and to nothing else.
    """

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
