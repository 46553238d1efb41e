"""gRPC channels that send their tier's token with each call, and the transport options of channels and servers."""

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
"""Security of connections within this machine: clear text, without tokens."""
# Tiers that start together need some time to find each other.
_PATIENCE_S = 5.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Largest message that a client accepts: one step may bring a worker many prompts."""
MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""Largest message that a server accepts: five million token ids or more, many times a model's context."""

Options = list[tuple[str, int | str]]

CLIENT_SIZE_OPTIONS: Options = [
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
]
SERVER_SIZE_OPTIONS: Options = [
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
]
# These pings detect a peer that vanished without closing (a pulled cable, a frozen host) within 30 s.
KEEPALIVE_OPTIONS: Options = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
# A restarted process is back within seconds; gRPC's default back-off would wait up to two minutes.
_RECONNECT_OPTIONS: Options = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # In a cluster, a name may resolve to a new address; by default gRPC would resolve it only twice a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]
_LOCAL_OPTIONS: Options = [
    # Otherwise channels of one process to the same address would share a connection and fail together.
    ("grpc.use_local_subchannel_pool", 1),
    # An http_proxy of the environment must not apply to the tiers.
    ("grpc.enable_http_proxy", 0),
]


def open_channel(address: str, security: TransportSecurity = LOCAL_ONLY) -> grpc.aio.Channel:
    """Open a channel to `unix:/path.sock` or `host:port`.

    The channel connects when it is first used and after each loss, always with the certificates that it was opened with. Raises
    InsecureAddressError, or OSError if a certificate's file cannot be read.
    """
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
    """A channel for the lifetime of a process, which may outlast its certificates.

    gRPC reads certificates when a channel is opened. So `until_ready`, which is called after a connection is lost, replaces
    `current` if the files have changed.
    """

    def __init__(self, address: str, security: TransportSecurity, *, patience_s: float = _PATIENCE_S) -> None:
        self._address = address
        self._security = security
        self._patience_s = patience_s
        self._files = security.channel_files(address)
        self.current = _open(address, security, self._files)

    async def until_ready(self) -> None:
        """Wait until the channel is connected, without a time limit. Log an outage once, with gRPC's reason if there is one."""
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
            logger.warning("certificate not readable; the old one stays in use", extra={"reason": str(error)})
            return
        if files != self._files:
            logger.info("certificate renewed", extra={"address": self._address})
            old, self.current, self._files = self.current, _open(self._address, self._security, files), files
            await old.close()

    async def _tell(self) -> bool:
        """Log why the connection fails. Return True if there was a reason to log."""
        check = health_pb2_grpc.HealthStub(self.current).Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)
        try:
            await check
        except grpc.aio.AioRpcError as error:
            reason = self._security.explain(self._address, error.details() or error.code().name)
            logger.warning("connection failed; retrying", extra={"address": self._address, "reason": reason})
            return True
        return False


class TokenChannel(grpc.aio.Channel):
    """A channel that adds metadata, such as a token, to each call.

    gRPC's own call credentials require TLS, and its stream interceptors cost time for each message. This one costs time only at
    the start of a call.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Callable[[], Metadata]) -> None:
        """Wrap a channel. `metadata` is called for each call."""
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
