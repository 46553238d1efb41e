"""API keys at rest: how one is made, what is kept of it, and the file that lists them.

The file holds digests, never keys, so that who reads it can use none. A plain sha256 is enough for that: a key is 256 random
bits, which cannot be guessed however fast the guesses are; a slow function is for passwords, and would cost every request.

keyring.py decides which key may do what.
"""

import hashlib
import logging
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pagoda.process.file_lock import file_lock

logger = logging.getLogger(__name__)

KEYS_FILE = "keys.json"
"""Its name under PAGODA_HOME."""
KEY_PREFIX = "pgd_"
"""What scanners for leaked secrets can look for."""
DEFAULT_TENANT = "default"
_KEY_BYTES = 32

_Signature = tuple[int, int, int] | None

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
"""Of a key or a tenant: it goes into logs and salts."""


class KeysError(ValueError):
    """A sentence for whoever made the keys. Never repeats a value, which may be a key in the wrong place."""


class Scope(StrEnum):
    INFERENCE = "inference"
    """To generate text, and to see which models there are."""
    ADMIN = "admin"
    """To change which models there are, and to see everyone's metrics."""
    PRIORITY = "priority"
    """To go before others: requests more urgent than the key's `priority_floor`."""


class KeyState(StrEnum):
    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class _Listed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class KeyEntry(_Listed):
    """What is kept of one key."""

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: Name = DEFAULT_TENANT
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = (Scope.INFERENCE,)
    isolated: bool = False
    """Whether the tenant's cached prefixes are kept apart from everyone else's."""
    priority_floor: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    """The most urgent `priority` that it may ask for without the scope for more; lower goes first."""
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def state(self, now: datetime) -> KeyState:
        if self.revoked_at is not None:
            return KeyState.REVOKED
        is_over = self.expires_at is not None and self.expires_at <= now
        return KeyState.EXPIRED if is_over else KeyState.VALID


class KeyList(_Listed):
    """A keys file as a whole. No name is there twice, so that a name in a log is one key, also when that is revoked."""

    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.keys]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two keys are named {repeated!r}")
        return self


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def parse_keys(text: str | bytes, source: str) -> tuple[KeyEntry, ...]:
    try:
        return KeyList.model_validate_json(text).keys
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        raise KeysError(f"{source} is not a list of keys: {f'{place}: ' if place else ''}{reason}") from None


class KeyFile:
    """Changed under a lock and replaced as a whole: a reader sees the old list or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[KeyEntry, ...]:
        """KeysError where it cannot be read, does not exist, or is no list of keys."""
        try:
            return parse_keys(self.path.read_bytes(), str(self.path))
        except FileNotFoundError:
            raise KeysError(
                f"there is no {self.path}: pagoda key create NAME --keys-file {self.path} makes it"
            ) from None
        except OSError as error:
            raise KeysError(f"{self.path} cannot be read: {error.strerror or error}") from None

    def add(self, entry: KeyEntry) -> None:
        """Makes the file where there is none."""

        def added(entries: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
            if any(entry.name == other.name for other in entries):
                raise KeysError(
                    f"there is a key named {entry.name!r} already, and names are used once, so that logs say which key "
                    f"was meant: choose another, such as {entry.name}-{len(entries) + 1}"
                )
            return (*entries, entry)

        self._change(added)

    def revoke(self, name: str, now: datetime) -> KeyEntry:
        """It stays in the list, and when it was revoked first stays true."""

        def revoked(entries: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
            return tuple(
                entry.model_copy(update={"revoked_at": now}) if entry.name == name and not entry.revoked_at else entry
                for entry in entries
            )

        for entry in self._change(revoked):
            if entry.name == name:
                return entry
        raise KeysError(f"there is no key named {name!r}: pagoda key list says which there are")

    def is_open_to_others(self) -> bool:
        """Whether users of this machine other than the owner may read or even write it."""
        return self.path.stat().st_mode & 0o077 != 0

    def _change(self, change: Callable[[tuple[KeyEntry, ...]], tuple[KeyEntry, ...]]) -> tuple[KeyEntry, ...]:
        with file_lock(self.path.with_name(f".{self.path.name}.lock")):
            entries = self.read() if self.path.exists() else ()
            changed = change(entries)
            if changed != entries:
                _replace(self.path.resolve(), KeyList(keys=changed).model_dump_json(indent=2) + "\n")
        return changed


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")  # for the owner alone, from the start
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


class WatchedKeys:
    """The keys of a file that may change while the server runs. What cannot be read never takes the place of what could.

    Raises KeysError where the file is wrong at the start. `must_exist`: no file is wrong too, rather than no keys.
    """

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
