"""The `python -m worker` entry point: read the settings, load the model, serve a scheduler until SIGTERM."""

import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial

import uvloop
from opentelemetry.trace import Tracer

from pagoda.models.errors import ModelError
from pagoda.process.background import end_tasks, keep_running, tell_when_held
from pagoda.process.ending import DEVICE_LOST, end_on_stop_signal, on_stop_signal
from pagoda.process.logging import configure_logging
from pagoda.rpc.sockets import ForeignDirectoryError, make_socket_directory
from pagoda.telemetry.open_tracer import open_tracer
from protos.v1 import worker_pb2
from worker.errors import DeviceLostError, EngineHangsError, StartError
from worker.loading.local_models import LocalModels
from worker.rpc.scheduler_link import SchedulerLink
from worker.settings import WorkerSettings
from worker.steps.engine_thread import Loaded

logger = logging.getLogger("worker")


def main() -> None:
    epoch = time.time_ns() // 1_000_000
    settings = WorkerSettings.load()
    configure_logging(settings.log_level, settings.log_format)
    end_on_stop_signal()
    logger.info("worker starting", extra=settings.described())
    with open_tracer(settings.otlp_endpoint, "pagoda-worker", settings.worker_id) as tracer:
        uvloop.run(serve(_open_link(settings, epoch, tracer), settings.drain_grace_s))
    logger.info("worker stopped")


def _open_link(settings: WorkerSettings, epoch: int, tracer: Tracer) -> Callable[[], SchedulerLink]:
    """Load the model, unless the worker starts without one, and return a function that makes the link in the event loop."""
    try:
        if not settings.scheduler:
            make_socket_directory(settings.home)
        models = LocalModels(settings)
        loaded = load_home_model(settings, models)
    except (StartError, ModelError, ForeignDirectoryError) as error:
        logger.error("cannot start", extra={"reason": str(error)})
        sys.exit(1)
    hello = worker_pb2.Hello(
        worker_id=settings.worker_id,
        epoch=epoch,
        device=settings.device,
        model=loaded.model if loaded else None,
    )
    load = partial(load_on_demand, settings, models)
    engine = loaded.engine if loaded else None
    return partial(
        SchedulerLink,
        engine,
        load,
        hello,
        settings.scheduler_addresses,
        tracer=tracer,
        security=settings.security,
        store=models,
        spread_interval_s=settings.spread_interval_s,
    )


async def serve(open_link: Callable[[], SchedulerLink], drain_grace_s: float) -> None:
    """Serve until the worker has left its scheduler. If only a new process can help, exit with a code that says why."""
    link = open_link()
    del open_link  # The link must hold the only reference to the engine, so that it can free it.
    on_stop_signal(lambda: link.leave(drain_grace_s))
    telling = keep_running("event loop watch", tell_when_held)
    try:
        await link.run()
        await end_tasks(telling)
    except EngineHangsError as error:
        logger.critical("engine does not respond; exiting", extra={"reason": str(error)})
        # An orderly shutdown would wait for the engine's thread.
        _end_at_once(1)
    except DeviceLostError as error:
        logger.critical("device lost; exiting so that a new process can use it", extra={"reason": str(error)})
        # An orderly shutdown would free device memory, and fail.
        _end_at_once(DEVICE_LOST)


def _end_at_once(exit_code: int) -> None:
    logging.shutdown()
    os._exit(exit_code)


def load_home_model(settings: WorkerSettings, models: LocalModels) -> Loaded | None:
    """Load the model that the worker starts with, if there is one."""
    if models.home_model is None:
        return None
    with models.loading(models.home_model) as on_progress:
        # Importing torch takes time and memory, so only a worker that loads a model does it.
        from worker.loading import start

        loaded = start.load_worker(settings, models.home_model, on_progress)
    models.record_weights(models.home_model, loaded.model.weights_bytes)
    return loaded


def load_on_demand(settings: WorkerSettings, models: LocalModels, name: str, digest: str) -> Loaded:
    from worker.loading import start

    return start.load_on_demand(settings, models, name, digest)


if __name__ == "__main__":
    main()
