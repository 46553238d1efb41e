"""Authentication and authorization of requests by API key, for HTTP and gRPC.

The digest of the offered key is always compared with those of all entries, each in constant time, so that the time of an answer
reveals nothing about the keys.
"""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pagoda.api_keys.key_file import KeyEntry, KeysError, KeyState, Scope, WatchedKeys, digest_of


class KeyRefusedError(Exception):
    """A request was refused because of its API key. The message is written for the client."""


class KeyNotValidError(KeyRefusedError):
    """The key is missing, unknown, expired or revoked."""


class ScopeMissingError(KeyRefusedError):
    """The key is valid, but lacks the required scope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of a request. Without keys, all requests have the same caller, which has no name."""

    key_name: str = ""
    tenant: str = ""
    is_isolated: bool = False
    scopes: tuple[Scope, ...] = tuple(Scope)
    priority_floor: int = 0

    def priority(self, asked: int | None) -> int:
        """Return the priority of a request that asks for `asked`. Raises ScopeMissingError if that is too urgent for the key."""
        if asked is None:
            return max(0, self.priority_floor)
        if asked < self.priority_floor and Scope.PRIORITY not in self.scopes:
            raise ScopeMissingError(
                f"`priority` must be at least {self.priority_floor} (got {asked}): API key '{self.key_name}' lacks the scope "
                f"'{Scope.PRIORITY}', which allows more urgent (lower) values"
            )
        return asked

    @property
    def may_unload(self) -> bool:
        """True if the caller's `keep_alive` may shorten what others have set. Otherwise it can only prolong it."""
        return Scope.ADMIN in self.scopes

    def cache_salt(self, asked: str) -> str:
        """Return the cache salt of a request with the `cache_salt` `asked`. No other tenant can get an isolated tenant's salt.

        Two requests share cached blocks only if their salts are equal.
        """
        if self.is_isolated:
            return f"tenant {self.tenant}/{asked}"
        return f"shared/{asked}" if asked else ""


NOBODY = Caller()


def environment_key(key: str) -> KeyEntry:
    """Return the entry of a key that is set in plain text. It has all scopes."""
    digest = digest_of(key.encode())
    return KeyEntry(name="environment", sha256=digest, scopes=tuple(Scope), created_at=datetime.now(UTC))


class Keyring:
    """All API keys of a server: fixed ones, and those of a file that may change.

    With `open_without_keys`, every request is allowed as long as there is no key. Otherwise an empty keyring raises KeysError.
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
            raise KeysError(
                f"{watched.path} has no keys; create one: pagoda key create NAME --keys-file {watched.path}"
            )

    @property
    def is_open(self) -> bool:
        """True if every request is allowed, because there is no key."""
        return self._open_without_keys and not self._entries()

    def authorize(self, offered: bytes | None, needed: Scope | None) -> Caller:
        """Return the caller with the offered key. Raises KeyNotValidError, or ScopeMissingError if the key lacks the scope."""
        if needed is None:
            return NOBODY
        if self.is_open:
            return NOBODY
        entries = self._entries()
        if offered is None:
            raise KeyNotValidError("A valid API key is required: Authorization: Bearer KEY.")
        entry = _find(entries, digest_of(offered))
        if entry is None:
            raise KeyNotValidError(
                "This server does not know this API key. A valid API key is required: Authorization: Bearer KEY."
            )
        if (state := entry.state(self._now())) is not KeyState.VALID:
            raise KeyNotValidError(
                f"API key '{entry.name}' is {state}. Ask the administrator of this server for another."
            )
        if needed not in entry.scopes:
            raise ScopeMissingError(
                f"API key '{entry.name}' lacks the required scope '{needed}' (it has: {', '.join(entry.scopes)})."
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
