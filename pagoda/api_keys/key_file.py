"""API keys on disk: how keys are made, what is stored of them, and the file that lists them.

The file holds digests, so that its readers cannot use the keys. A plain SHA-256 suffices: a key is 256 random bits and cannot be
guessed. Slow hash functions are for passwords, and would slow down every request.

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
from pagoda.validation import describe_problem

logger = logging.getLogger(__name__)

KEYS_FILE = "keys.json"
"""Name of the keys file under PAGODA_HOME."""
KEY_PREFIX = "pgd_"
"""Beginning of every key, by which scanners for leaked secrets can find keys."""
DEFAULT_TENANT = "default"
_KEY_BYTES = 32

_Signature = tuple[int, int, int] | None

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
"""Name of a key or a tenant. It appears in logs and cache salts."""


class KeysError(ValueError):
    """An unusable keys file or list. The message contains no value, because a value may be a misplaced key."""


class Scope(StrEnum):
    """A permission of a key."""

    INFERENCE = "inference"
    """Permission to generate text and list models."""
    ADMIN = "admin"
    """Permission to change the models and read metrics of all tenants."""
    PRIORITY = "priority"
    """Permission to send requests more urgent than the key's `priority_floor`."""


class KeyState(StrEnum):
    """Validity of a key."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class _Listed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class KeyEntry(_Listed):
    """The stored data of one key."""

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: Name = DEFAULT_TENANT
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = (Scope.INFERENCE,)
    isolated: bool = False
    """True if the tenant shares no cached prefixes with other tenants."""
    priority_floor: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    """Most urgent `priority` that the key may request without the scope `priority`. A lower number is more urgent."""
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def state(self, now: datetime) -> KeyState:
        if self.revoked_at is not None:
            return KeyState.REVOKED
        is_over = self.expires_at is not None and self.expires_at <= now
        return KeyState.EXPIRED if is_over else KeyState.VALID


class KeyList(_Listed):
    """The contents of a keys file. Names are unique, also among revoked keys, so that a name in a log means one key."""

    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.keys]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two keys have the name {repeated!r}")
        return self


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def parse_keys(text: str | bytes, source: str) -> tuple[KeyEntry, ...]:
    try:
        return KeyList.model_validate_json(text).keys
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        reason = describe_problem(problem, is_secret=True)
        raise KeysError(f"{source} is not a list of keys: {f'{place}: ' if place else ''}{reason}") from None


class KeyFile:
    """A keys file. It is changed under a lock and replaced as a whole, so that a reader sees the old list or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[KeyEntry, ...]:
        """Return the entries. Raises KeysError if the file is missing, unreadable or not a list of keys."""
        try:
            return parse_keys(self.path.read_bytes(), str(self.path))
        except FileNotFoundError:
            raise KeysError(
                f"keys file not found: {self.path}; create it: pagoda key create NAME --keys-file {self.path}"
            ) from None
        except OSError as error:
            raise KeysError(f"{self.path} cannot be read: {error.strerror or error}") from None

    def add(self, entry: KeyEntry) -> None:
        """Add an entry, and create the file if it is missing. Raises KeysError if the name is used already."""

        def added(entries: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
            if any(entry.name == other.name for other in entries):
                raise KeysError(
                    f"a key named {entry.name!r} exists already, and a name cannot be reused, because logs refer to keys by "
                    f"name; choose another, such as {entry.name}-{len(entries) + 1}"
                )
            return (*entries, entry)

        self._change(added)

    def revoke(self, name: str, now: datetime) -> KeyEntry:
        """Mark the key as revoked and return its entry. A key that was revoked before keeps its time of revocation."""

        def revoked(entries: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
            return tuple(
                entry.model_copy(update={"revoked_at": now}) if entry.name == name and not entry.revoked_at else entry
                for entry in entries
            )

        for entry in self._change(revoked):
            if entry.name == name:
                return entry
        raise KeysError(f"no key is named {name!r}; to list the keys: pagoda key list")

    def is_open_to_others(self) -> bool:
        """Return True if other users of this machine may read or write the file."""
        return self.path.stat().st_mode & 0o077 != 0

    def _change(self, change: Callable[[tuple[KeyEntry, ...]], tuple[KeyEntry, ...]]) -> tuple[KeyEntry, ...]:
        with file_lock(self.path.with_name(f".{self.path.name}.lock")):
            entries = self.read() if self.path.exists() else ()
            changed = change(entries)
            if changed != entries:
                _replace(self.path.resolve(), KeyList(keys=changed).model_dump_json(indent=2) + "\n")
        return changed


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")  # only its owner may open it
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
    """The keys of a file that may change while the server runs. If it becomes unreadable, its last keys stay valid.

    Raises KeysError if the file is unusable at the start. With `must_exist`, a missing file is unusable too; otherwise it has no
    keys.
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
        """Return the keys that the file lists now. If it is unusable or missing, log that once and return its last keys."""
        if (signature := _signature(self.path)) != self._signature:
            self._signature = signature
            try:
                self._entries = self._read()
            except KeysError as error:
                logger.error("keys file unusable; its last keys stay valid", extra={"reason": str(error)})
        return self._entries

    def _read(self) -> tuple[KeyEntry, ...]:
        entries = self._file.read()
        logger.info("keys read", extra={"path": self.path, "num_keys": len(entries)})
        if self._file.is_open_to_others():
            logger.warning("keys file readable by other users; run chmod 600 on it", extra={"path": self.path})
        return entries


def _signature(path: Path) -> _Signature:
    """Return a value that changes when the file is replaced or changed. None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
