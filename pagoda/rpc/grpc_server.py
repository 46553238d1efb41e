"""A gRPC server with health checks (Check and Watch) and reflection.

The tier registers its servicers on `server` before `start`.
"""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pagoda.rpc.grpc_channel import KEEPALIVE_OPTIONS, LOCAL_ONLY, SERVER_SIZE_OPTIONS, Options
from pagoda.rpc.sockets import SocketInUseError, claim_socket, private_files, unix_path
from pagoda.rpc.transport_security import TransportSecurity

_SERVER_OPTIONS: Options = [
    *SERVER_SIZE_OPTIONS,
    *KEEPALIVE_OPTIONS,
    # Clients ping an idle connection every 20 s; gRPC's default would close it because of too many pings.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # Two processes on one port would each get half of the calls, so the second one must fail to start.
    ("grpc.so_reuseport", 0),
]


class GrpcServer:
    """A gRPC server, made inside a running event loop. The empty service name is SERVING from `start` until `stop` (liveness)."""

    def __init__(
        self,
        address: str,
        security: TransportSecurity = LOCAL_ONLY,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        self.address = address
        self._security = security
        self.port: int | None = None
        """Bound port, set by `start`. None on a unix socket."""
        self.server: grpc.aio.Server = grpc.aio.server(interceptors=interceptors, options=_SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    async def start(self, service_names: Sequence[str]) -> None:
        """Start to listen. Each named service is NOT_SERVING until `set_serving` changes that."""
        reflection.enable_server_reflection((*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME), self.server)
        for name in service_names:
            await self.set_serving(name, False)
        self._bind()
        await self.server.start()

    async def set_serving(self, service: str, serving: bool) -> None:
        """Set the health of a service, for clients that check or watch it."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(service, status)

    async def stop(self, grace_s: float) -> None:
        """Set all services to NOT_SERVING, give running calls `grace_s` to end, and remove the socket's file."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(grace_s)
        path = unix_path(self.address)
        if path is not None:
            path.unlink(missing_ok=True)

    def _bind(self) -> None:
        path = unix_path(self.address)
        if path is not None:
            claim_socket(path)
        credentials = self._security.server_credentials(self.address)
        try:
            if path is not None:
                with private_files():
                    port = self.server.add_insecure_port(self.address)
            elif credentials is None:
                port = self.server.add_insecure_port(self.address)
            else:
                port = self.server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise SocketInUseError(f"cannot listen on {self.address}: is another process using it?") from error
        self.port = port if path is None else None
