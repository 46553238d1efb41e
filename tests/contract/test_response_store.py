"""Tests of every store of responses: in memory, and in a real Valkey server."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.responses.redis_store import KEYS, RedisResponseStore
from gateway.responses.store import (
    ENTRY_OVERHEAD_BYTES,
    MemoryResponseStore,
    ResponseStore,
    StoreLimits,
    StoreUnavailableError,
)
from tests.fakes.valkey import RealValkey, real_valkey

LIMITS = StoreLimits(max_entries=4, max_bytes=4 * (100 + ENTRY_OVERHEAD_BYTES), ttl_s=1000)


class MemorySubject:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.store: ResponseStore = MemoryResponseStore(LIMITS, clock=lambda: self.now_s)

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds


class RedisSubject:
    """A store in Valkey. The times of use are moved back by command, so that no test waits."""

    def __init__(self, valkey: RealValkey) -> None:
        self._valkey = valkey
        self.store: ResponseStore = RedisResponseStore(valkey.url, LIMITS)

    def pass_time(self, seconds: float) -> None:
        admin: Any = self._valkey.admin
        for name, used_at in admin.zrange(KEYS[1], 0, -1, withscores=True):
            admin.zadd(KEYS[1], {name: used_at - seconds * 1000})


Subject = MemorySubject | RedisSubject


@pytest.fixture(scope="module")
def valkey() -> Iterator[RealValkey]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory, real_valkey(Path(directory)) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "memory":
        return MemorySubject()
    valkey = request.getfixturevalue("valkey")
    valkey.admin.flushall()
    return RedisSubject(valkey)


async def test_a_stored_response_is_returned_until_it_is_deleted(subject: Subject) -> None:
    store = subject.store
    await store.put("a", "resp_1", b"one")
    await store.put("a", "resp_1", b"another \xff one")
    assert await store.get("a", ["resp_2", "resp_1", "resp_3"]) == [None, b"another \xff one", None]
    assert await store.delete("a", "resp_1")
    assert not await store.delete("a", "resp_1")
    assert await store.get("a", ["resp_1"]) == [None]
    await store.close()


async def test_another_owner_neither_sees_nor_deletes_it(subject: Subject) -> None:
    store = subject.store
    await store.put("a", "resp_1", b"one")
    assert await store.get("b", ["resp_1"]) == [None]
    assert not await store.delete("b", "resp_1")
    assert await store.get("a", ["resp_1"]) == [b"one"]
    await store.close()


async def test_the_least_recently_used_response_leaves_a_full_store(subject: Subject) -> None:
    store = subject.store
    for number in range(4):
        await store.put("a", f"resp_{number}", b"x")
        subject.pass_time(1)
    await store.get("a", ["resp_0"])
    subject.pass_time(1)
    await store.put("a", "resp_4", b"x")
    assert await store.get("a", [f"resp_{number}" for number in range(5)]) == [b"x", None, b"x", b"x", b"x"]
    await store.close()


async def test_large_responses_make_room_for_each_other(subject: Subject) -> None:
    store = subject.store
    for number in range(3):
        await store.put("a", f"resp_{number}", bytes(100 + ENTRY_OVERHEAD_BYTES))
        subject.pass_time(1)
    found = await store.get("a", [f"resp_{number}" for number in range(3)])
    assert [content is not None for content in found] == [False, True, True]
    await store.close()


async def test_a_response_that_is_larger_than_the_store_is_not_kept(subject: Subject) -> None:
    store = subject.store
    await store.put("a", "resp_1", b"x")
    await store.put("a", "resp_0", bytes(LIMITS.max_bytes))
    assert await store.get("a", ["resp_0", "resp_1"]) == [None, b"x"]
    await store.close()


async def test_each_use_prolongs_the_life_of_a_response(subject: Subject) -> None:
    store = subject.store
    await store.put("a", "resp_0", b"x")
    await store.put("a", "resp_1", b"x")
    subject.pass_time(600)
    assert await store.get("a", ["resp_0"]) == [b"x"]
    subject.pass_time(600)
    assert await store.get("a", ["resp_0", "resp_1"]) == [b"x", None]
    subject.pass_time(1001)
    assert not await store.delete("a", "resp_0")
    await store.close()


async def test_a_server_that_is_gone_is_reported(tmp_path: Path) -> None:
    store = RedisResponseStore(f"unix://{tmp_path / 'nothing.sock'}", LIMITS)
    with pytest.raises(StoreUnavailableError):
        await store.put("a", "resp_0", b"x")
    with pytest.raises(StoreUnavailableError):
        await store.get("a", ["resp_0"])
    await store.close()


async def test_the_keys_of_a_store_without_use_expire(valkey: RealValkey) -> None:
    valkey.admin.flushall()
    store = RedisResponseStore(valkey.url, LIMITS)
    await asyncio.gather(*(store.put("a", f"resp_{number}", b"x") for number in range(3)))
    assert all(0 < valkey.admin.pttl(key) <= LIMITS.ttl_s * 1000 for key in KEYS)
    await store.close()


@pytest.mark.parametrize("evicted", KEYS)
async def test_a_store_that_the_server_evicted_in_part_begins_anew(valkey: RealValkey, evicted: str) -> None:
    """Servers with the policy allkeys-lru evict whole keys, so the others would count entries that are gone."""
    valkey.admin.flushall()
    store = RedisResponseStore(valkey.url, LIMITS)
    for number in range(4):
        await store.put("a", f"old_{number}", bytes(100))
    valkey.admin.delete(evicted)
    for number in range(4):
        await store.put("a", f"resp_{number}", bytes(100))
    assert await store.get("a", [f"old_{number}" for number in range(4)]) == [None] * 4
    assert await store.get("a", [f"resp_{number}" for number in range(4)]) == [bytes(100)] * 4
    assert int(valkey.admin.get(KEYS[2]) or 0) <= LIMITS.max_bytes
    await store.close()
