"""The cache of packed weights: a second start of a model reads what the first one has packed (docs/memory.md).

A file is written in the background, some time after the model serves, and never delays or fails a start. It is named after the
digest of the model's files and after the native library, which stands for the kernels' version and the processor's instructions.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pagoda.models.model import Model
from pagoda.models.packed_weights import UNFINISHED, packed_directory, packed_files, packed_path
from pagoda.process.file_lock import file_lock
from worker.kernels.interface import Kernels
from worker.kernels.native.kernels import NativeIntegerKernels
from worker.kernels.native.packed_file import PackedFileError, StoppedError, read_packed_file, write_packed_file
from worker.kernels.native.panel_memory import PackedPart

WRITE_AFTER_S = 5.0
"""Time after a load at which writing begins: the first requests have the processor to themselves."""
LEAST_FREE_BYTES = 2_000_000_000
"""Disk space that stays free."""
LOWEST_PRIORITY = 19

logger = logging.getLogger(__name__)


class PackedCache:
    """The cache of one home. It writes one file at a time."""

    def __init__(self) -> None:
        self._writing: threading.Thread | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop writing, and release the weights that would have been written."""
        if self._writing is not None:
            self._stopped.set()
            self._writing.join()
            self._writing = None

    def wait(self) -> None:
        """Wait until the file is written."""
        if self._writing is not None:
            self._writing.join()

    @contextmanager
    def loading(self, home: Path, limit_bytes: int, model: Model, kernels: Kernels) -> Iterator[None]:
        """Let the kernels take the weights that they pack in this block from the cache; else write them to it later."""
        if not isinstance(kernels, NativeIntegerKernels) or not limit_bytes or not model.digest:
            yield
            return
        memory, path = kernels.panel_memory, packed_path(home, model.digest, kernels.packing_id)
        started = time.monotonic()
        memory.begin(_read(kernels, path))
        read_s = time.monotonic() - started
        try:
            yield
            if memory.num_packed:
                self._write_later(kernels, path, memory.parts, limit_bytes)
            elif memory.parts:
                logger.info("packed weights read", extra={"path": str(path), "seconds": read_s})
                with suppress(OSError):
                    os.utime(path)
        finally:
            memory.end()

    def _write_later(
        self, kernels: NativeIntegerKernels, path: Path, parts: Sequence[PackedPart], limit_bytes: int
    ) -> None:
        self.stop()
        self._stopped = threading.Event()
        arguments = (kernels, path, parts, limit_bytes, self._stopped)
        self._writing = threading.Thread(
            target=_write_after_a_while, args=arguments, name="packed-weights", daemon=True
        )
        self._writing.start()


def _read(kernels: NativeIntegerKernels, path: Path) -> list[PackedPart]:
    """Return the parts in the file; none if there is no such file. A damaged one is removed."""
    try:
        return read_packed_file(kernels.library, path, path.stem)
    except FileNotFoundError:
        pass
    except (PackedFileError, OSError) as error:
        logger.warning("packed weights cannot be read; packing again", extra={"path": str(path), "reason": str(error)})
        with suppress(OSError):
            path.unlink()
    return []


def _write_after_a_while(
    kernels: NativeIntegerKernels, path: Path, parts: Sequence[PackedPart], limit_bytes: int, stopped: threading.Event
) -> None:
    if stopped.wait(WRITE_AFTER_S):
        return
    with suppress(OSError, AttributeError):  # Of this thread alone, on Linux.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
    try:
        with file_lock(packed_directory(path.parent.parent) / ".lock", wait=False):
            _write(kernels, path, parts, limit_bytes, stopped)
    except BlockingIOError:
        logger.info("packed weights not written; another worker is writing", extra={"path": str(path)})
    except StoppedError:
        logger.info("packed weights not written; stopped", extra={"path": str(path)})
    except OSError as error:
        reason = error.strerror or str(error)
        logger.info("packed weights not written", extra={"path": str(path), "reason": reason})


def _write(
    kernels: NativeIntegerKernels, path: Path, parts: Sequence[PackedPart], limit_bytes: int, stopped: threading.Event
) -> None:
    """Write the file under another name and rename it. The lock is held, so that unfinished files are those of dead processes."""
    home, needed = path.parent.parent, sum(part.memory.nbytes for part in parts)
    for left in packed_directory(home).glob(f"*{UNFINISHED}"):
        left.unlink(missing_ok=True)
    if reason := _make_room(home, path, needed, limit_bytes):
        logger.info("packed weights not written", extra={"path": str(path), "reason": reason})
        return
    unfinished, started = path.with_suffix(UNFINISHED), time.monotonic()
    try:
        write_packed_file(kernels.library, unfinished, path.stem, parts, stopped.is_set)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    seconds = time.monotonic() - started
    logger.info("packed weights written", extra={"path": str(path), "bytes": needed, "seconds": seconds})


def _make_room(home: Path, path: Path, needed: int, limit_bytes: int) -> str:
    """Remove files that were not used for the longest time. Return a reason if there is no room nevertheless."""
    if needed > limit_bytes:
        return f"it would take {needed:,} bytes, but the limit is {limit_bytes:,}"
    others = [other for other in packed_files(home) if other != path]
    sizes = {other: other.stat().st_size for other in others}
    while others and (
        sum(sizes[other] for other in others) + needed > limit_bytes or _free_bytes(home) < needed + LEAST_FREE_BYTES
    ):
        others.pop(0).unlink(missing_ok=True)
    if _free_bytes(home) < needed + LEAST_FREE_BYTES:
        return f"the disk has only {_free_bytes(home):,} bytes left"
    return ""


def _free_bytes(home: Path) -> int:
    return shutil.disk_usage(packed_directory(home)).free
