"""Whose request it is, and whether its API key allows it: for HTTP and for gRPC alike. Keeps no key, and names none.

The offered key's digest is compared with that of every entry, always all of them and each in constant time, so that the time
an answer takes says nothing about any key.
"""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pagoda.api_keys.key_file import KeyEntry, KeysError, KeyState, Scope, WatchedKeys, digest_of


class KeyRefusedError(Exception):
    """A sentence for whoever offered the key, or none."""


class KeyNotValidError(KeyRefusedError):
    """There is no such key, or it is expired or revoked."""


class ScopeMissingError(KeyRefusedError):
    """The key is valid, but not for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose request it is. Where no key is needed, everyone is the same caller, without a name."""

    key_name: str = ""
    tenant: str = ""
    is_isolated: bool = False
    scopes: tuple[Scope, ...] = tuple(Scope)
    priority_floor: int = 0

    def priority(self, asked: int | None) -> int:
        """Return the priority of a request that asked for this one, or for none. Raises ScopeMissingError for one too urgent."""
        if asked is None:
            return max(0, self.priority_floor)
        if asked < self.priority_floor and Scope.PRIORITY not in self.scopes:
            raise ScopeMissingError(
                f"priority: {asked} needs the scope '{Scope.PRIORITY}', which the API key '{self.key_name}' has not: without it, "
                f"{self.priority_floor} is the most urgent (lower goes first)"
            )
        return asked

    @property
    def may_unload(self) -> bool:
        """Whether its `keep_alive` may end what others asked for; otherwise it can only prolong that."""
        return Scope.ADMIN in self.scopes

    def cache_salt(self, asked: str) -> str:
        """Return the salt for a request that asked for `asked`. No tenant can ask for the salt of one that is isolated.

        Two requests share cached blocks only where their salts are the same.
        """
        if self.is_isolated:
            return f"tenant {self.tenant}/{asked}"
        return f"shared/{asked}" if asked else ""


NOBODY = Caller()


def environment_key(key: str) -> KeyEntry:
    """The one key that is given in plain. It may do everything."""
    digest = digest_of(key.encode())
    return KeyEntry(name="environment", sha256=digest, scopes=tuple(Scope), created_at=datetime.now(UTC))


class Keyring:
    """All keys there are: those that are fixed, and those of a file that may change.

    `open_without_keys`: as long as there are none, everyone may do everything. Otherwise no keys are a KeysError.
    """

    def __init__(
        self,
        fixed: Sequence[KeyEntry],
        watched: WatchedKeys,
        *,
        open_without_keys: bool,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._fixed = tuple(fixed)
        self._watched = watched
        self._open_without_keys = open_without_keys
        self._now = now
        if not open_without_keys and not self._fixed and not watched.entries():
            raise KeysError(f"{watched.path} lists no key yet: pagoda key create NAME --keys-file {watched.path}")

    @property
    def is_open(self) -> bool:
        """Whether everyone may do everything, since there is no key."""
        return self._open_without_keys and not self._entries()

    def authorize(self, offered: bytes | None, needed: Scope | None) -> Caller:
        """Return whose key it is. Raises KeyNotValidError, and ScopeMissingError for a key that does not have the scope."""
        if needed is None:
            return NOBODY
        if self.is_open:
            return NOBODY
        entries = self._entries()
        entry = None if offered is None else _find(entries, digest_of(offered))
        if entry is None:
            raise KeyNotValidError("A valid API key is required: Authorization: Bearer KEY.")
        if (state := entry.state(self._now())) is not KeyState.VALID:
            raise KeyNotValidError(f"The API key '{entry.name}' is {state}. Ask whoever runs this server for another.")
        if needed not in entry.scopes:
            raise ScopeMissingError(
                f"This needs the scope '{needed}', which the API key '{entry.name}' has not: "
                f"it has {', '.join(entry.scopes)}.",
            )
        return Caller(
            key_name=entry.name,
            tenant=entry.tenant,
            is_isolated=entry.isolated,
            scopes=tuple(entry.scopes),
            priority_floor=entry.priority_floor,
        )

    def _entries(self) -> tuple[KeyEntry, ...]:
        return (*self._fixed, *self._watched.entries())


def _find(entries: Sequence[KeyEntry], digest: str) -> KeyEntry | None:
    found = None
    for entry in entries:
        if hmac.compare_digest(entry.sha256, digest):
            found = entry
    return found
