"""The running downloads of models into the store: one per name, for any number of clients.

A pull continues after its clients have left, and a later request for the same model joins it. It ends with the process; the next
pull resumes the download.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from functools import partial

from gateway.errors import ErrorKind, GatewayError, from_model_error
from pagoda.models.errors import ModelError
from pagoda.models.model import Model
from pagoda.models.pull import ModelPuller
from pagoda.models.sources.progress import Progress, Stage

# Enough for a pull that makes progress to stop. One that waits for the network ends with the process.
CLOSE_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)


class PullStoppedError(Exception):
    """The error of a pull that stopped because the process ends. The next pull of the model resumes it."""


class Pulls:
    """The running pulls, by the canonical names of their models."""

    def __init__(self, puller: ModelPuller, canonical_name: Callable[[str], str]) -> None:
        self._puller = puller
        self.canonical_name = canonical_name
        self._running: dict[str, Pull] = {}
        self._closing = False

    def watch_pull(self, name: str, *, insecure: bool = False) -> "Pull":
        """Return the running pull of this model, or a new one. Raises ModelError if it is not a valid name.

        `name` is passed on as it was written, because upper and lower case differ at the hub.
        """
        key = self.canonical_name(name)
        if key not in self._running:
            self._running[key] = Pull(asyncio.create_task(self._run(key, name, insecure)))
            self._running[key].task.add_done_callback(_log_failure)
        return self._running[key]

    async def stop_pulls(self) -> None:
        """Stop all pulls at their next progress, and wait for them at most CLOSE_TIMEOUT_S."""
        self._closing = True
        if tasks := [pull.task for pull in self._running.values()]:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)

    async def _run(self, key: str, name: str, insecure: bool) -> Model:
        loop, pull = asyncio.get_running_loop(), self._running[key]

        def on_progress(progress: Progress) -> None:
            if self._closing:
                raise PullStoppedError("The server is shutting down; pull the model again to resume the download.")
            for warning in progress.remote.warnings if progress.remote is not None else ():
                logger.warning("part of a model is not used", extra={"model": key, "reason": warning})
            loop.call_soon_threadsafe(pull.note_progress, progress)

        try:
            return await _in_daemon_thread(partial(self._puller.pull, name, on_progress, insecure=insecure))
        finally:
            del self._running[key]
            pull.note_progress(None)


def _in_daemon_thread(call: Callable[[], Model]) -> "asyncio.Future[Model]":
    """Run the call in a daemon thread: unlike asyncio's own threads, it cannot delay the end of the process."""
    future: Future[Model] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="pull", daemon=True).start()
    return asyncio.wrap_future(future)


def _log_failure(task: asyncio.Task[Model]) -> None:
    """Log a pull's failure. Its clients receive it too, but all of them may have left."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("pull failed", extra={"reason": str(error)})


_Part = tuple[Stage, str | None]
"""A stage, or one file of the stage DOWNLOADING."""


class Pull:
    """One running pull, with the latest progress of each of its stages, and of each file while files are downloaded."""

    def __init__(self, task: asyncio.Task[Model]) -> None:
        self.task = task
        self._latest: dict[_Part, Progress] = {}
        self._changed = asyncio.Event()

    def note_progress(self, progress: Progress | None) -> None:
        if progress is not None:
            file = progress.file
            self._latest[progress.stage, None if file is None else file.name] = progress
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch_progress(self) -> AsyncGenerator[Progress, None]:
        """Yield the latest progress until the pull ends.

        A slow reader misses steps, but not the last one of a stage or a file, and delays nothing.
        """
        shown: dict[_Part, Progress] = {}
        while True:
            changed = self._changed
            news = {part: progress for part, progress in self._latest.items() if shown.get(part) is not progress}
            if news:
                shown |= news
                for progress in news.values():
                    yield progress
            elif self.task.done():
                return
            elif not changed.is_set():
                await changed.wait()

    async def result(self) -> Model:
        """Wait for the model. Raises GatewayError. The pull continues if the caller is cancelled."""
        try:
            return await asyncio.shield(self.task)
        except ModelError as error:
            raise from_model_error(error) from None
        except OSError as error:
            # Without the path, which clients must not learn.
            raise GatewayError(
                ErrorKind.INTERNAL, f"the model could not be stored: {error.strerror or 'error of the file system'}"
            ) from error
        except PullStoppedError as error:
            raise GatewayError(ErrorKind.UNAVAILABLE, str(error)) from None
