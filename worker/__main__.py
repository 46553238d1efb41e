"""python -m worker: settings → model and pages → scheduler link, until SIGTERM."""

import logging
import signal
import sys
import time
from functools import partial
from types import FrameType

import uvloop

from pagoda.logging import configure_logging
from pagoda.models.errors import ModelError
from pagoda.stop_signals import on_stop_signal
from pagoda.tracing import Tracer, open_tracer
from worker.errors import StartError
from worker.scheduler_link import SchedulerLink
from worker.settings import WorkerSettings
from worker.start import LoadedWorker, load_again, load_worker

logger = logging.getLogger("worker")


def main() -> None:
    epoch = time.time_ns() // 1_000_000
    settings = WorkerSettings.load()
    configure_logging(settings.log_level, settings.log_format)
    logger.info("starting", extra=settings.described())
    # Nothing is running yet that would have to end first; the link takes the signals over.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    with open_tracer(settings.otlp_endpoint, "pagoda-worker", settings.worker_id) as tracer:
        uvloop.run(serve(_load(settings, epoch), settings, tracer))
    logger.info("stopped")


def _load(settings: WorkerSettings, epoch: int) -> LoadedWorker:
    try:
        return load_worker(settings, epoch)
    except (StartError, ModelError) as error:
        logger.error("cannot start", extra={"reason": str(error)})
        sys.exit(1)


async def serve(worker: LoadedWorker, settings: WorkerSettings, tracer: Tracer) -> None:
    reload = partial(load_again, settings, worker.hello)
    link = SchedulerLink(
        worker.engine,
        reload,
        worker.hello,
        settings.scheduler_addresses,
        tracer=tracer,
        security=settings.security,
    )
    del worker  # The engine is the link's alone, to let go.
    on_stop_signal(lambda: link.leave(settings.drain_grace_s))
    await link.run()


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
