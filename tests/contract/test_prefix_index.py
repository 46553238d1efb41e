"""Tests of every prefix index: in memory, and in a real Valkey server."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvcache.block_hash import BlockHash
from kvcache.breaker import BreakerState
from kvcache.prefix_index import Holder, IndexLimits, InMemoryPrefixIndex, PrefixIndex, PublishResult
from kvcache.redis_index import LOOKUP_LIMIT_S, RedisPrefixIndex
from tests.fakes.tcp_proxy import tcp_proxy
from tests.fakes.valkey import RealValkey, real_valkey

LIMITS = IndexLimits(max_holders_per_block=3)
MODEL = "4d" * 32
NEW, KNOWN, FENCED = PublishResult.NEW, PublishResult.KNOWN, PublishResult.FENCED


def blocks(*numbers: int) -> list[BlockHash]:
    return [BlockHash(number.to_bytes(16, "big")) for number in numbers]


def holder(worker: int = 1, *, scheduler: int = 1, epoch: int = 1, model: str = MODEL) -> Holder:
    return Holder(model=model, scheduler_id=f"scheduler-{scheduler}:50051", worker_id=f"w{worker} ü", epoch=epoch)


class MemorySubject:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.index: PrefixIndex = InMemoryPrefixIndex(LIMITS, clock=lambda: self.now_s)

    async def pass_lease(self) -> None:
        self.now_s += LIMITS.lease_s

    async def pass_block_ttl(self, holder: Holder) -> None:
        self.now_s += LIMITS.block_ttl_s
        await self.index.publish(holder, [])


class RedisSubject:
    """An index in Valkey. Its keys are expired by command, so that no test waits."""

    def __init__(self, valkey: RealValkey) -> None:
        self.valkey = valkey
        # On a busy machine a look-up may take longer than the default limit.
        self.index: PrefixIndex = RedisPrefixIndex(valkey.url, LIMITS, lookup_limit_s=10.0, write_limit_s=10.0)

    async def pass_lease(self) -> None:
        [key] = self.valkey.keys("pagoda:{*}")
        assert 0 < self.valkey.admin.pttl(key) <= LIMITS.lease_s * 1000
        self.valkey.admin.pexpire(key, 0)

    async def pass_block_ttl(self, holder: Holder) -> None:
        for key in self.valkey.keys("pagoda:{*}:*"):
            assert LIMITS.lease_s * 1000 < self.valkey.admin.pttl(key) <= LIMITS.block_ttl_s * 1000
            self.valkey.admin.pexpire(key, 0)


Subject = MemorySubject | RedisSubject


@pytest.fixture(scope="module")
def server() -> Iterator[RealValkey]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory, real_valkey(Path(directory)) as valkey:
        yield valkey


@pytest.fixture
def valkey(server: RealValkey) -> RealValkey:
    """Return the server, running and empty."""
    server.admin.flushall()
    server.admin.config_set("maxmemory", 0)
    return server


@pytest.fixture(params=["memory", "redis"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    made = MemorySubject() if request.param == "memory" else RedisSubject(request.getfixturevalue("valkey"))
    yield made
    await made.index.close()


@pytest.fixture
def index(subject: Subject) -> PrefixIndex:
    return subject.index


# ---- behaviour of every index


async def test_nothing_is_found_where_nothing_was_published(index: PrefixIndex) -> None:
    assert await index.lookup(MODEL, blocks(1, 2)) == {}
    assert await index.lookup(MODEL, []) == {}
    assert index.breaker_state is BreakerState.CLOSED


async def test_the_leading_run_of_each_holder_is_found(index: PrefixIndex) -> None:
    first, second, third = holder(1), holder(2), holder(1, scheduler=2)
    await index.publish(first, blocks(1, 2, 3))
    await index.publish(second, blocks(1, 3, 4))
    await index.publish(third, blocks(2, 3))
    assert await index.lookup(MODEL, blocks(1, 2, 3, 4)) == {first: 3, second: 1}
    assert await index.lookup(MODEL, blocks(2, 3, 4)) == {first: 2, third: 2}
    assert await index.lookup(MODEL, blocks(5, 1)) == {}


async def test_models_do_not_meet(index: PrefixIndex) -> None:
    await index.publish(holder(), blocks(1))
    assert await index.lookup("5e" * 32, blocks(1)) == {}


async def test_many_blocks_are_one_publication_and_one_lookup(index: PrefixIndex) -> None:
    many = blocks(*range(1, 1500))
    assert await index.publish(holder(), many) is NEW
    assert await index.lookup(MODEL, many) == {holder(): len(many)}
    assert await index.publish(holder(), many) is KNOWN
    await index.withdraw(holder(), many[600:])
    assert await index.lookup(MODEL, many) == {holder(): 600}


async def test_of_a_very_long_prompt_only_the_beginning_is_looked_up(index: PrefixIndex) -> None:
    many = blocks(*range(1, LIMITS.max_lookup_blocks + 100))
    await index.publish(holder(), many)
    assert await index.lookup(MODEL, many) == {holder(): LIMITS.max_lookup_blocks}


async def test_a_withdrawn_block_is_not_found_and_others_keep_theirs(index: PrefixIndex) -> None:
    await index.publish(holder(1), blocks(1, 2, 3))
    await index.publish(holder(2), blocks(1, 2, 3))
    assert await index.withdraw(holder(1), blocks(2, 9))
    assert await index.lookup(MODEL, blocks(1, 2, 3)) == {holder(1): 1, holder(2): 3}
    await index.withdraw(holder(2), blocks(1, 2, 3))
    assert await index.lookup(MODEL, blocks(1, 2, 3)) == {holder(1): 1}


async def test_a_later_epoch_makes_the_entries_of_the_older_one_void(index: PrefixIndex) -> None:
    assert await index.publish(holder(epoch=1), blocks(1, 2)) is NEW
    assert await index.publish(holder(epoch=2), blocks(1)) is NEW
    assert await index.lookup(MODEL, blocks(1, 2)) == {holder(epoch=2): 1}


async def test_a_zombie_can_neither_add_nor_take_away(index: PrefixIndex) -> None:
    await index.publish(holder(epoch=2), blocks(1))
    assert await index.publish(holder(epoch=1), blocks(1, 2)) is FENCED
    await index.withdraw(holder(epoch=1), blocks(1))
    await index.drop(holder(epoch=1))
    assert await index.lookup(MODEL, blocks(1, 2)) == {holder(epoch=2): 1}


async def test_a_dropped_holder_is_not_found_and_cannot_come_back(index: PrefixIndex) -> None:
    await index.publish(holder(1), blocks(1))
    await index.publish(holder(2), blocks(1))
    await index.drop(holder(1))
    assert await index.publish(holder(1), blocks(1)) is FENCED
    assert await index.lookup(MODEL, blocks(1)) == {holder(2): 1}
    again = holder(1, epoch=2)
    assert await index.publish(again, []) is NEW
    assert await index.lookup(MODEL, blocks(1)) == {holder(2): 1}, "the new epoch has published nothing yet"
    await index.publish(again, blocks(1))
    assert await index.lookup(MODEL, blocks(1)) == {again: 1, holder(2): 1}


async def test_a_holder_that_nobody_knew_cannot_come_after_its_drop(index: PrefixIndex) -> None:
    await index.drop(holder())
    assert await index.publish(holder(), blocks(1)) is FENCED


async def test_only_the_latest_holders_of_a_block_are_kept(index: PrefixIndex) -> None:
    for worker in range(5):
        await index.publish(holder(worker), blocks(1))
    assert await index.lookup(MODEL, blocks(1)) == {holder(worker): 1 for worker in (2, 3, 4)}
    await index.publish(holder(2), blocks(1))
    await index.publish(holder(0), blocks(1))
    assert await index.lookup(MODEL, blocks(1)) == {holder(worker): 1 for worker in (0, 2, 4)}


async def test_a_holder_whose_lease_has_passed_is_forgotten_until_it_publishes(subject: Subject) -> None:
    await subject.index.publish(holder(), blocks(1))
    await subject.pass_lease()
    assert await subject.index.lookup(MODEL, blocks(1)) == {}
    assert await subject.index.publish(holder(), blocks(2)) is NEW
    assert await subject.index.lookup(MODEL, blocks(2)) == {holder(): 1}


async def test_a_block_that_nobody_publishes_again_is_forgotten(subject: Subject) -> None:
    await subject.index.publish(holder(), blocks(1, 2))
    await subject.pass_block_ttl(holder())
    assert await subject.index.lookup(MODEL, blocks(1)) == {}


class Operation:
    publish, withdraw, drop = "publish", "withdraw", "drop"


holders = st.builds(holder, st.integers(1, 4), scheduler=st.integers(1, 2), epoch=st.integers(1, 3))
runs = st.lists(st.integers(1, 6), max_size=6).map(lambda numbers: blocks(*numbers))
operations = st.lists(
    st.tuples(
        st.sampled_from([Operation.publish, Operation.publish, Operation.withdraw, Operation.drop]), holders, runs
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=operations)
def test_all_indexes_answer_alike(valkey: RealValkey, operations: list[tuple[str, Holder, list[BlockHash]]]) -> None:
    async def compare() -> None:
        memory, redis = MemorySubject().index, RedisSubject(valkey).index
        for name, who, which in operations:
            arguments = (who,) if name == Operation.drop else (who, which)
            assert await getattr(memory, name)(*arguments) == await getattr(redis, name)(*arguments)
            for asked in (which, blocks(1, 2, 3, 4, 5, 6)):
                assert await memory.lookup(MODEL, asked) == await redis.lookup(MODEL, asked)
        await redis.close()

    valkey.admin.flushall()
    asyncio.run(compare())


# ---- failures and limits of a server


@pytest.fixture
async def redis(valkey: RealValkey) -> AsyncIterator[RedisPrefixIndex]:
    index = RedisPrefixIndex(valkey.url, LIMITS)
    yield index
    await index.close()


async def until(attempt: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Repeat the attempt until it returns the wanted result; the test's own time limit is the deadline."""
    while True:
        if await attempt() == wanted:
            return
        await asyncio.sleep(0.01)


async def publish_until(index: PrefixIndex, wanted: PublishResult, which: list[BlockHash]) -> None:
    await until(lambda: index.publish(holder(), which), wanted)


async def look_up_until_open(index: PrefixIndex) -> None:
    while index.breaker_state is not BreakerState.OPEN:
        assert await index.lookup(MODEL, blocks(1)) == {}


async def test_a_killed_server_costs_hits_only_and_comes_back_empty(
    valkey: RealValkey, redis: RedisPrefixIndex, caplog: pytest.LogCaptureFixture
) -> None:
    await publish_until(redis, NEW, blocks(1))
    valkey.kill()
    try:
        await look_up_until_open(redis)
        assert await redis.publish(holder(), blocks(1)) is PublishResult.UNAVAILABLE
        assert not await redis.withdraw(holder(), blocks(1))
        await redis.drop(holder(2))
    finally:
        valkey.start()
    # The index reports that it has lost everything.
    await publish_until(redis, NEW, blocks(1))
    assert redis.breaker_state is BreakerState.CLOSED
    await publish_until(redis, KNOWN, blocks(1))
    messages = [record.getMessage() for record in caplog.records if record.name == "kvcache.redis_index"]
    assert messages.count("prefix index unavailable; routing by load only") == 1


async def test_a_server_that_was_never_there_is_no_error(tmp_path: Path) -> None:
    index = RedisPrefixIndex(f"unix://{tmp_path}/nobody.sock")
    await look_up_until_open(index)
    assert await index.publish(holder(), blocks(1)) is PublishResult.UNAVAILABLE
    await index.close()


async def test_a_flushed_server_says_that_it_forgot(valkey: RealValkey) -> None:
    index = RedisSubject(valkey).index
    await index.publish(holder(), blocks(1))
    valkey.admin.flushall()
    assert await index.lookup(MODEL, blocks(1)) == {}
    assert await index.publish(holder(), []) is NEW
    await index.close()


async def test_a_frozen_server_soon_makes_nobody_wait(valkey: RealValkey, redis: RedisPrefixIndex) -> None:
    await publish_until(redis, NEW, blocks(1))
    with valkey.frozen():
        await look_up_until_open(redis)
        assert await redis.publish(holder(), blocks(1)) is PublishResult.UNAVAILABLE
    await publish_until(redis, KNOWN, blocks(1))
    await until(lambda: redis.lookup(MODEL, blocks(1)), {holder(): 1})


async def test_a_paused_server_finds_nothing_until_it_goes_on(valkey: RealValkey, redis: RedisPrefixIndex) -> None:
    await publish_until(redis, NEW, blocks(1))
    valkey.admin.client_pause(1000)
    assert await redis.lookup(MODEL, blocks(1)) == {}
    await until(lambda: redis.lookup(MODEL, blocks(1)), {holder(): 1})


async def test_a_slow_server_soon_makes_nobody_wait(valkey: RealValkey) -> None:
    async with tcp_proxy(valkey.url) as proxy:
        index = RedisPrefixIndex(f"redis://{proxy.address}", LIMITS)
        await publish_until(index, NEW, blocks(1))
        proxy.delay_s = 10 * LOOKUP_LIMIT_S
        await look_up_until_open(index)
        proxy.delay_s = 0.0
        await until(lambda: index.lookup(MODEL, blocks(1)), {holder(): 1})
        assert index.breaker_state is BreakerState.CLOSED
        await index.close()


async def test_a_connection_that_takes_longer_than_a_lookup_may_is_made_once(valkey: RealValkey) -> None:
    """A slow connection survives a look-up's time limit: if each look-up connected again, none would ever succeed."""
    near = RedisSubject(valkey).index
    await near.publish(holder(), blocks(1))
    await near.close()
    async with tcp_proxy(valkey.url) as proxy:
        proxy.delay_s = 0.3
        index = RedisPrefixIndex(f"redis://{proxy.address}", LIMITS, lookup_limit_s=1.0, write_limit_s=60.0)
        assert await index.lookup(MODEL, blocks(1)) == {}
        await until(lambda: index.lookup(MODEL, blocks(1)), {holder(): 1})
        await index.close()


async def test_a_server_that_was_cut_off_without_a_word_is_found_again(valkey: RealValkey) -> None:
    async with tcp_proxy(valkey.url) as proxy:
        index = RedisPrefixIndex(f"redis://{proxy.address}", LIMITS)
        await publish_until(index, NEW, blocks(1))
        proxy.freeze()
        await look_up_until_open(index)
        await proxy.break_off()
        proxy.thaw()
        await until(lambda: index.lookup(MODEL, blocks(1)), {holder(): 1})
        await index.close()


async def test_a_full_server_refuses_writes_and_still_answers(valkey: RealValkey) -> None:
    index = RedisSubject(valkey).index
    await index.publish(holder(), blocks(1))
    valkey.admin.config_set("maxmemory", 1)
    assert await index.publish(holder(), blocks(2)) is PublishResult.UNAVAILABLE
    await index.drop(holder(2))
    assert index.breaker_state is BreakerState.CLOSED
    assert await index.lookup(MODEL, blocks(1, 2)) == {holder(): 1}
    valkey.admin.config_set("maxmemory", 0)
    assert await index.publish(holder(), blocks(2)) is KNOWN
    assert await index.lookup(MODEL, blocks(1, 2)) == {holder(): 2}
    await index.close()


async def test_what_others_put_at_our_keys_is_no_error(valkey: RealValkey) -> None:
    index = RedisSubject(valkey).index
    await index.publish(holder(), blocks(1, 2))
    [holders_key] = valkey.keys("pagoda:{*}")
    deep = b"1 1 1 " + b"[" * 100_000
    for garbage in (b"", b"1 1 1 [", b'1 1 1 ["a"]', deep, b"x 1 1 []", b"-1 1 1 []", b"\xff\xfe"):
        valkey.admin.hset(holders_key, b"somebody", garbage)
        valkey.admin.set(b"%s:%s" % (holders_key, blocks(2)[0]), b"short")
        assert await index.lookup(MODEL, blocks(1, 2)) == {holder(): 1}
        assert await index.publish(holder(), []) is KNOWN
    assert valkey.admin.hlen(holders_key) == 1, "unreadable records are removed"
    valkey.admin.delete(holders_key)
    valkey.admin.set(holders_key, b"another type")
    assert await index.lookup(MODEL, blocks(1)) == {}
    assert await index.publish(holder(), blocks(1)) is PublishResult.UNAVAILABLE
    await index.close()


async def test_a_lease_that_passed_while_others_publish_ends_too(valkey: RealValkey) -> None:
    index = RedisSubject(valkey).index
    await index.publish(holder(1), blocks(1))
    [holders_key] = valkey.keys("pagoda:{*}")
    [(slot, record)] = valkey.admin.hgetall(holders_key).items()
    assert isinstance(record, bytes)
    epoch, live, _, names = record.split(b" ", 3)
    valkey.admin.hset(holders_key, slot, b" ".join((epoch, live, b"1", names)))  # a time in 1970
    await index.publish(holder(2), blocks(1))
    await index.publish(holder(2), [])
    assert await index.lookup(MODEL, blocks(1)) == {holder(2): 1}
    assert await index.publish(holder(1, epoch=0), []) is FENCED, "the epoch is still fenced"
    await index.close()


async def test_the_memory_of_a_block_is_bounded(valkey: RealValkey) -> None:
    index = RedisPrefixIndex(valkey.url, write_limit_s=10.0)
    for worker in range(20):
        await index.publish(holder(worker), blocks(1))
    [key] = valkey.keys("pagoda:{*}:*")
    assert valkey.admin.strlen(key) == 8 * 16
    # The allocator may round up each of the two allocations by 16 bytes.
    assert (valkey.admin.memory_usage(key) or 0) <= 208 + 2 * 16
    await index.close()


async def test_the_keys_of_a_model_share_a_hash_tag(valkey: RealValkey) -> None:
    index = RedisSubject(valkey).index
    await index.publish(holder(), blocks(1, 2))
    keys = valkey.keys()
    assert len(keys) == 3
    assert {key[key.index(b"{") : key.index(b"}")] for key in keys} == {b"{" + MODEL[:16].encode()}
    await index.close()


async def test_a_lookup_is_one_round_trip_with_one_mget(valkey: RealValkey) -> None:
    """All commands of a look-up arrive before the server's first answer leaves, even for the longest prompt."""
    many = blocks(*range(1, 1 + LIMITS.max_lookup_blocks))
    async with tcp_proxy(valkey.url) as proxy:
        index = RedisPrefixIndex(f"redis://{proxy.address}", LIMITS, lookup_limit_s=60.0, write_limit_s=60.0)
        await index.publish(holder(), many)
        valkey.admin.config_resetstat()

        async def asked() -> dict[str, int]:
            stats = valkey.admin.info("commandstats")
            return {
                name: stats[f"cmdstat_{name}"]["calls"] for name in ("hgetall", "mget") if f"cmdstat_{name}" in stats
            }

        proxy.freeze(answers_only=True)
        looking = asyncio.create_task(index.lookup(MODEL, many))
        await until(asked, {"hgetall": 1, "mget": 1})
        proxy.thaw()
        assert await looking == {holder(): len(many)}
        assert await asked() == {"hgetall": 1, "mget": 1} and "cmdstat_get" not in valkey.admin.info("commandstats")
        await index.close()
