"""The store of responses, for GET /v1/responses/{id} and for conversations that continue by `previous_response_id`.

A store is bounded: the responses that were used least recently leave it first.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from time import monotonic
from typing import Protocol

from pagoda.api_keys.keyring import Caller

ENTRY_OVERHEAD_BYTES = 400
"""Memory of an entry besides its content: its name, and its places in the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """The bounds of a store."""

    max_entries: int
    max_bytes: int
    ttl_s: float
    """Time after its last use, in seconds, for which a response is kept."""


class StoreUnavailableError(Exception):
    """The store does not answer."""


class ResponseStore(Protocol):
    """A bounded store of encoded responses. Each belongs to an owner, and no other owner sees it."""

    description: str
    """A sentence for errors that says how long responses are kept, and where."""

    async def put(self, owner: str, response_id: str, content: bytes) -> None:
        """Store or replace a response. A content that is larger than the whole store is not kept.

        Raises StoreUnavailableError, as all methods do.
        """

    async def get(self, owner: str, response_ids: Sequence[str]) -> list[bytes | None]:
        """Return the contents in the order of the ids, and use them all; None for one that is not there."""

    async def delete(self, owner: str, response_id: str) -> bool:
        """Remove a response. Return whether it was there."""

    async def close(self) -> None:
        """Close the connections."""


def owner_of(caller: Caller) -> str:
    """Return the owner of a caller's responses: its API key. Without keys, all callers are the same owner."""
    return sha256(f"{caller.tenant}/{caller.key_name}".encode()).hexdigest()[:32]


@dataclass(slots=True)
class _Entry:
    content: bytes
    used_at: float

    @property
    def num_bytes(self) -> int:
        return len(self.content) + ENTRY_OVERHEAD_BYTES


class MemoryResponseStore:
    """A store in this process. It is lost with the process."""

    def __init__(self, limits: StoreLimits, clock: Callable[[], float] = monotonic) -> None:
        self.description = (
            f"Responses are kept in the memory of one gateway, for {limits.ttl_s:g} s after their last use, and at most "
            f"{limits.max_entries} of them: a restart loses them, and other gateways do not have them."
        )
        self._limits = limits
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        """Entries by owner and id, the least recently used one first."""
        self._num_bytes = 0

    async def put(self, owner: str, response_id: str, content: bytes) -> None:
        self._remove((owner, response_id))
        entry = _Entry(content, self._clock())
        if entry.num_bytes > self._limits.max_bytes:
            return
        self._entries[owner, response_id] = entry
        self._num_bytes += entry.num_bytes
        self._trim()

    async def get(self, owner: str, response_ids: Sequence[str]) -> list[bytes | None]:
        self._trim()
        return [self._use((owner, response_id)) for response_id in response_ids]

    async def delete(self, owner: str, response_id: str) -> bool:
        self._trim()
        return self._remove((owner, response_id))

    async def close(self) -> None:
        pass

    def _use(self, name: tuple[str, str]) -> bytes | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        entry.used_at = self._clock()
        self._entries.move_to_end(name)
        return entry.content

    def _trim(self) -> None:
        """Remove what is too old, and the least recently used entries until the rest fits."""
        oldest = self._clock() - self._limits.ttl_s
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            fits = len(self._entries) <= self._limits.max_entries and self._num_bytes <= self._limits.max_bytes
            if fits and entry.used_at > oldest:
                return
            self._remove(name)

    def _remove(self, name: tuple[str, str]) -> bool:
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        self._num_bytes -= entry.num_bytes
        return True
