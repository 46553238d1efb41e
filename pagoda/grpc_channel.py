"""Opening gRPC channels, and the transport options that both ends of one share.

Knows nothing about services but health: callers make their own stubs.
"""

import asyncio
import contextlib
import logging

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pagoda.transport_security import TransportSecurity

logger = logging.getLogger(__name__)

LOCAL_ONLY = TransportSecurity()
"""Clear text, within this machine."""
# Tiers that start together need a moment to find each other.
_PATIENCE_S = 5.0
MAX_MESSAGE_BYTES = 256 * 1024 * 1024

Options = list[tuple[str, int | str]]

MESSAGE_SIZE_OPTIONS: Options = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
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
]
_LOCAL_OPTIONS: Options = [
    # Channels of one process to the same address would else share a connection, and with it the fate of one stream.
    ("grpc.use_local_subchannel_pool", 1),
    # An http_proxy in the environment is for the world outside, never for our own tiers.
    ("grpc.enable_http_proxy", 0),
]


def open_channel(address: str, security: TransportSecurity = LOCAL_ONLY) -> grpc.aio.Channel:
    """To `unix:/path.sock` or `host:port`. It connects when first used, and after each loss. Raises InsecureAddressError."""
    options = MESSAGE_SIZE_OPTIONS + KEEPALIVE_OPTIONS + _RECONNECT_OPTIONS + _LOCAL_OPTIONS
    credentials = security.channel_credentials(address)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    if security.server_name:
        options = [*options, ("grpc.ssl_target_name_override", security.server_name)]
    return grpc.aio.secure_channel(address, credentials, options)


async def until_ready(
    channel: grpc.aio.Channel, address: str, security: TransportSecurity, *, patience_s: float = _PATIENCE_S
) -> None:
    """Wait for the connection, for ever if need be. An outage is one line in the log, which says why if gRPC does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            return await channel.channel_ready()
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=patience_s)
    except grpc.aio.AioRpcError as error:
        reason = security.explain(address, error.details() or error.code().name)
        logger.warning("cannot connect, trying on", extra={"address": address, "reason": reason})
    await channel.channel_ready()
