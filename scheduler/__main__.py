"""Entry point of `python -m scheduler`: run the loop behind its gRPC server until SIGTERM."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from functools import partial

import uvloop
from opentelemetry.trace import NoOpTracer, Tracer

from kvcache.open_index import open_prefix_index
from pagoda.api_keys.key_file import KeysError
from pagoda.process.background import end_tasks, keep_running, tell_when_held
from pagoda.process.ending import end_on_stop_signal, on_stop_signal
from pagoda.process.logging import configure_logging
from pagoda.rpc.cluster_tokens import HOME_TOKEN_FILE, ClusterTokenError, make_token_file
from pagoda.rpc.grpc_server import GrpcServer
from pagoda.rpc.sockets import ForeignDirectoryError, make_socket_directory, unix_path
from pagoda.telemetry.open_tracer import open_tracer
from protos.v1 import inference_pb2_grpc, worker_pb2_grpc
from scheduler.counters import Counters
from scheduler.faults.worker_watch import Patience
from scheduler.loop import SchedulerLoop
from scheduler.publish.index_publisher import IndexPublisher
from scheduler.publish.tracing import SequenceTracing
from scheduler.rpc import inference_service, worker_stream
from scheduler.rpc.door import Door, DoorInterceptor
from scheduler.settings import SchedulerSettings

logger = logging.getLogger("scheduler")


async def serve(settings: SchedulerSettings, tracer: Tracer) -> None:
    stopping = asyncio.Event()
    on_stop_signal(stopping.set)
    telling = keep_running("event loop watch", tell_when_held)
    async with running_scheduler(settings, tracer) as loop:
        logger.info("scheduler listening", extra={"address": settings.address})
        await stopping.wait()
        await drain(loop, settings.drain_grace_s)
    await end_tasks(telling)
    logger.info("scheduler stopped")


@contextlib.asynccontextmanager
async def running_scheduler(settings: SchedulerSettings, tracer: Tracer | None = None) -> AsyncIterator[SchedulerLoop]:
    """Run the scheduler while the block runs and yield its loop. At the end, open requests and workers may move to another one."""
    counters = Counters()
    publisher = IndexPublisher(
        open_prefix_index(settings.prefix_index.get_secret_value()),
        scheduler_id=settings.advertised_address,
        counters=counters.index,
    )
    loop = SchedulerLoop(
        asyncio.get_running_loop(),
        settings.policy,
        caches=publisher,
        sequences=SequenceTracing(tracer or NoOpTracer()),
        counters=counters,
    )
    server = GrpcServer(settings.address, settings.security, [DoorInterceptor(open_door(settings))])
    clients = inference_service.InferenceServicer(loop)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(clients, server.server)
    workers = worker_stream.WorkerServicer(
        loop,
        heartbeat_s=settings.heartbeat_s,
        patience=Patience(
            silence_s=settings.silence_s,
            step_time_multiple=settings.step_time_multiple,
            stalled_step_s=settings.stalled_step_s,
        ),
    )
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(workers, server.server)
    await server.start([inference_service.SERVICE_NAME, worker_stream.SERVICE_NAME])
    await server.set_serving(worker_stream.SERVICE_NAME, True)
    publishing = keep_running("readiness", partial(publish_readiness, loop, server))
    indexing = keep_running("prefix index", publisher.run)
    try:
        yield loop
    finally:
        await end_tasks(publishing)
        clients.end_streams()
        loop.attachments.dismiss_all_workers()
        await server.stop(grace_s=1.0)
        await end_tasks(indexing)
        await publisher.close()


def open_door(settings: SchedulerSettings) -> Door:
    """Return the access check of all calls. Create the home's cluster token if it is used and missing.

    Raises KeysError, or ClusterTokenError if the token cannot be created and other machines could not connect without it.
    """
    tokens, is_private = settings.believed_tokens, unix_path(settings.address) is not None
    if tokens is not None and tokens != settings.cluster_tokens:
        path = settings.home / HOME_TOKEN_FILE
        try:
            make_token_file(path)
        except OSError as error:
            problem = f"cannot write the cluster token {path}: {error.strerror or error}; set another with --cluster-token-file"
            if not is_private:
                raise ClusterTokenError(problem) from None
            logger.warning("no cluster token; gateways cannot connect if API keys are set", extra={"reason": problem})
    return Door(
        keyring=settings.keyring(open_without_keys=True),
        tokens=tokens,
        certificates=settings.certificate_roles,
        is_private=is_private,
    )


async def publish_readiness(loop: SchedulerLoop, server: GrpcServer) -> None:
    """Report the inference service as serving while the loop is ready: a worker is attached, and the scheduler does not drain."""
    changed = asyncio.Event()
    loop.on_readiness_changed = changed.set
    while True:
        await server.set_serving(inference_service.SERVICE_NAME, loop.is_ready)
        await changed.wait()
        changed.clear()


async def drain(loop: SchedulerLoop, grace_s: float) -> None:
    """Refuse new requests, and wait until the open ones have ended or the grace period is over."""
    logger.info("scheduler draining", extra={"grace_s": grace_s})
    idle = asyncio.Event()
    loop.requests.start_draining(on_idle=idle.set)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await idle.wait()


def main() -> None:
    settings = SchedulerSettings.load()
    configure_logging(settings.log_level, settings.log_format)
    end_on_stop_signal()
    logger.info("scheduler starting", extra=settings.described())
    try:
        if not settings.listen:
            make_socket_directory(settings.home)
        with open_tracer(settings.otlp_endpoint, "pagoda-scheduler") as tracer:
            uvloop.run(serve(settings, tracer))
    except (KeysError, ClusterTokenError, ForeignDirectoryError) as error:
        print(f"pagoda scheduler: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
