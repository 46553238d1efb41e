"""Opening gRPC channels, and the transport options that both ends of one share.

Knows nothing about services: callers make their own stubs.
"""

import grpc

MAX_MESSAGE_BYTES = 256 * 1024 * 1024

Options = list[tuple[str, int]]

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


def open_channel(address: str) -> grpc.aio.Channel:
    """A plaintext channel to `unix:/path.sock` or `host:port`. It connects when first used, and after each loss."""
    return grpc.aio.insecure_channel(
        address, MESSAGE_SIZE_OPTIONS + KEEPALIVE_OPTIONS + _RECONNECT_OPTIONS + _LOCAL_OPTIONS
    )
