"""Scratch directories for work in progress in the store, and the atomic move of the result into place.

A scratch directory belongs to the process that holds its lock. If that process has died, the next process that needs a scratch
directory removes it, and gateways do so regularly. A lock is visible only on its own machine. So directories of other machines are
removed only after nothing was written there for an hour.
"""

import ctypes
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pagoda.models.errors import ModelStoreError
from pagoda.models.layout import StoreLayout

ABANDONED_AFTER_S = 3600.0
# Scratch files of earlier versions, beside the models and the blobs.
_OLD_SCRATCH = (".new-*", ".old-*", ".digests.json.*", "blobs/.upload-*")
_LOCK = "lock"
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)

logger = logging.getLogger(__name__)


class Scratch:
    """The scratch directories of a store."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._prefix = f"{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """Yield an empty directory on the store's file system, so that links and renames work. It is deleted afterwards."""
        self.sweep()
        self._layout.scratch.mkdir(parents=True, exist_ok=True)
        # Under the store's lock, so that no other process sweeps the directory before it is locked.
        with self._layout.changing():
            directory = Path(tempfile.mkdtemp(dir=self._layout.scratch, prefix=self._prefix))
            lock = (directory / _LOCK).open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with lock:
            try:
                (directory / "work").mkdir()
                yield directory / "work"
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    def sweep(self) -> None:
        """Delete the directories of dead processes. Never raises: a directory that cannot be deleted stays for the next time."""
        try:
            dead = list(self._take_over_dead())
        except OSError as error:
            logger.debug("scratch directories not readable", extra={"reason": str(error)})
            return
        for directory, lock in dead:
            logger.info("abandoned scratch files removed", extra={"directory": str(directory)})
            shutil.rmtree(directory, ignore_errors=True)
            if lock is not None:
                lock.close()

    def sweep_old(self) -> None:
        """Delete scratch files of earlier versions, which had no locks, if nothing was written there for an hour."""
        for path in [path for pattern in _OLD_SCRATCH for path in self._layout.models.glob(pattern)]:
            if _is_abandoned(path):
                logger.info("abandoned scratch files removed", extra={"directory": str(path)})
                with suppress(OSError):
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _take_over_dead(self) -> Iterator[tuple[Path, IO[bytes] | None]]:
        """Yield the directories of dead processes with their locks, so that no two processes delete the same one."""
        if not self._layout.scratch.is_dir():
            return
        with self._layout.changing():
            for directory in list(self._layout.scratch.iterdir()):
                if not directory.name.startswith(self._prefix) and not _is_abandoned(directory):
                    continue
                if not (directory / _LOCK).exists():
                    yield directory, None
                    continue
                lock = (directory / _LOCK).open("ab")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    lock.close()  # its process is running
                else:
                    yield directory, lock


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Raise ModelStoreError, without a path, if the file system refuses a change in the block: no space, no permission."""
    try:
        yield
    except OSError as error:
        raise ModelStoreError(f"the {what} could not be stored: {error.strerror or error}") from error


def put_in_place(source: Path, target: Path) -> bool:
    """Move the directory `source` to `target`, atomically for readers. A directory that was at `target` is at `source` then.

    Returns True if there was one. The caller must hold the store's lock. If the file system cannot exchange directories, readers
    may find none for a moment.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)  # also replaces an empty directory
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    try:
        _exchange(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:
            raise
        aside = source.with_name(f"{source.name}.aside")
        os.rename(target, aside)
        os.rename(source, target)
        os.rename(aside, source)
    return True


def _exchange(one: Path, other: Path) -> None:
    """Exchange two paths atomically. Raises OSError, with ENOSYS if the system has no such call."""
    libc, paths = ctypes.CDLL(None, use_errno=True), (os.fsencode(one), os.fsencode(other))
    if hasattr(libc, "renameat2"):
        result = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        result = libc.renamex_np(*paths, _RENAME_SWAP)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _is_abandoned(path: Path) -> bool:
    last_changed = 0.0
    inside = (os.path.join(folder, name) for folder, folders, files in os.walk(path) for name in (*folders, *files))
    for each in (str(path), *inside):
        with suppress(OSError):
            last_changed = max(last_changed, os.lstat(each).st_mtime)
    return time.time() - last_changed > ABANDONED_AFTER_S
