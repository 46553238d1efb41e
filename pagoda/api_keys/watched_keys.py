"""The keys of a file that may change while the server runs. What cannot be read never takes the place of what could."""

import logging
from pathlib import Path

from pagoda.api_keys.key_file import KeyEntry, KeyFile, KeysError

logger = logging.getLogger(__name__)

_Signature = tuple[int, int, int] | None


class WatchedKeys:
    """Raises KeysError where the file is wrong at the start. `must_exist`: no file is wrong too, rather than no keys."""

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self._file = KeyFile(path)
        self._entries: tuple[KeyEntry, ...] = ()
        self._signature = _signature(path)
        if must_exist or self._signature is not None:
            self._entries = self._read()

    @property
    def path(self) -> Path:
        return self._file.path

    def entries(self) -> tuple[KeyEntry, ...]:
        """As the file lists them now. A file that is broken or gone is logged once, and its last good keys stay."""
        if (signature := _signature(self.path)) != self._signature:
            self._signature = signature
            try:
                self._entries = self._read()
            except KeysError as error:
                logger.error("keys file is unusable, its last keys stay in force", extra={"reason": str(error)})
        return self._entries

    def _read(self) -> tuple[KeyEntry, ...]:
        entries = self._file.read()
        logger.info("keys read", extra={"path": self.path, "num_keys": len(entries)})
        if self._file.is_open_to_others():
            logger.warning("other users may open the keys file; chmod 600 it", extra={"path": self.path})
        return entries


def _signature(path: Path) -> _Signature:
    """Differs when the file was replaced or changed; None while there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
