"""Work in progress in the store: a directory for each piece of it, and how what was made there gets into place at once.

The directory is the process's that holds the lock in it. One whose process has died is swept by the next that begins some work, and
by gateways now and then. A lock shows that on the machine of the process only, so another machine's is left alone until nothing has
been written there for an hour.
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
# What versions before this directory left: beside the models, and beside the blobs.
_OLD_SCRATCH = (".new-*", ".old-*", ".digests.json.*", "blobs/.upload-*")
_LOCK = "lock"
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)

logger = logging.getLogger(__name__)


class Scratch:
    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._prefix = f"{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """An empty directory on the store's file system, so that links and renames work. It is deleted afterwards, with all that
        is in it."""
        self.sweep()
        self._layout.scratch.mkdir(parents=True, exist_ok=True)
        # Under the lock: who sweeps sees no directory that is about to be locked.
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
        """Delete what was left by processes that have died. Never raises: what cannot be deleted is left for the next time."""
        try:
            dead = list(self._take_over_dead())
        except OSError as error:
            logger.debug("scratch directories cannot be looked at", extra={"reason": str(error)})
            return
        for directory, lock in dead:
            logger.info("abandoned work removed", extra={"directory": str(directory)})
            shutil.rmtree(directory, ignore_errors=True)
            if lock is not None:
                lock.close()

    def sweep_old(self) -> None:
        """Delete what earlier versions left, which had no locks, once nothing has been written there for an hour."""
        for path in [path for pattern in _OLD_SCRATCH for path in self._layout.models.glob(pattern)]:
            if _is_abandoned(path):
                logger.info("abandoned work removed", extra={"directory": str(path)})
                with suppress(OSError):
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _take_over_dead(self) -> Iterator[tuple[Path, IO[bytes] | None]]:
        """With their locks, so that no two processes delete the same."""
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
                    lock.close()  # its process lives
                else:
                    yield directory, lock


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Raise ModelStoreError, without a path, where the file system refuses: no space, no permission."""
    try:
        yield
    except OSError as error:
        raise ModelStoreError(f"the {what} cannot be stored: {error.strerror or error}") from error


def put_in_place(source: Path, target: Path) -> bool:
    """Make the directory `source` the one at `target`: a reader sees the old one or the new one. The old one is at `source` then.

    Returns whether there was an old one. The caller must hold the store's lock. Where the file system cannot exchange directories,
    readers may find none for a moment.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)  # also over an empty directory
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
    """Raises OSError; with ENOSYS where the system has no such call."""
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
