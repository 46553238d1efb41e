"""Tests of the publisher between a real loop and an index whose failures the test controls."""

from collections.abc import Mapping, Sequence

import pytest

from kvcache.block_hash import BlockHash
from kvcache.breaker import BreakerState
from kvcache.prefix_index import Holder, InMemoryPrefixIndex, PublishResult
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.counters import IndexCounters
from scheduler.loop import SchedulerLoop
from scheduler.publish.index_publisher import REFRESH_S, RENEW_S, IndexPublisher
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info

MODEL = "f" * 64


class FragileIndex(InMemoryPrefixIndex):
    """An index in memory. It fails all calls while `is_down`, and is empty after `flush`."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock.time)
        self.is_down = False
        self.publications: list[int] = []
        """Number of blocks of each publication."""

    @property
    def num_published(self) -> int:
        return sum(self.publications)

    async def publish(self, holder: Holder, blocks: Sequence[BlockHash]) -> PublishResult:
        if self.is_down:
            return PublishResult.UNAVAILABLE
        self.publications.append(len(blocks))
        return await super().publish(holder, blocks)

    async def withdraw(self, holder: Holder, blocks: Sequence[BlockHash]) -> bool:
        return not self.is_down and await super().withdraw(holder, blocks)

    def flush(self) -> None:
        self._models.clear()


class System:
    def __init__(self, *, max_pending: int = 1000, num_pages: int = 8) -> None:
        self.clock = FakeClock()
        self.index = FragileIndex(self.clock)
        self.counters = IndexCounters()
        self.publisher = IndexPublisher(
            self.index, scheduler_id="here:1", counters=self.counters, max_pending=max_pending, clock=self.clock.time
        )
        self.loop = SchedulerLoop(self.clock, caches=self.publisher)
        self.num_pages = num_pages
        self.asked = 0

    def attach(self) -> AttachedWorker:
        self.fake = PlanWorker(worker_info("w0", num_pages=self.num_pages))
        self.worker = self.loop.attachments.attach_worker(self.fake.info, self.fake)
        return self.worker

    def answer(self, first_token: int, num_tokens: int = 9) -> list[BlockHash]:
        """Let the worker answer a prompt. Return the prompt's full blocks."""
        self.asked += 1
        request = InferenceRequest(
            request_id=f"r{self.asked}",
            model="fake",
            prompt_token_ids=list(range(first_token, first_token + num_tokens)),
            sampling=SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True),
        )
        self.loop.requests.submit_request(request, RecordingClient())
        self.clock.run_soon()
        [sequence] = self.worker.running
        while self.fake.queue:
            self.loop.apply_result(self.worker, self.fake.run_step())
            self.clock.run_soon()
        return sequence.block_hashes[1:]

    async def found(self, blocks: Sequence[BlockHash]) -> Mapping[tuple[str, str], int]:
        holders = await self.index.lookup(MODEL, blocks)
        return {(holder.scheduler_id, holder.worker_id): run for holder, run in holders.items()}


HERE = ("here:1", "w0")


async def test_blocks_are_published_once_their_result_has_come() -> None:
    system = System()
    system.attach()
    await system.publisher.write()
    blocks = system.answer(1)
    assert await system.found(blocks) == {}
    await system.publisher.write()
    assert await system.found(blocks) == {HERE: 2}
    assert system.counters == IndexCounters(num_published=2, num_dropped=0, breaker_state=BreakerState.CLOSED)


async def test_evicted_blocks_are_withdrawn() -> None:
    system = System(num_pages=5)
    system.attach()
    first = system.answer(1)
    await system.publisher.write()
    second = system.answer(20, num_tokens=13)
    await system.publisher.write()
    assert await system.found(second) == {HERE: 3}
    assert await system.found(first) == {HERE: 1}, "the tail had to go"


async def test_a_lost_worker_is_dropped_and_a_later_attachment_counts_anew() -> None:
    system = System()
    system.attach()
    blocks = system.answer(1)
    await system.publisher.write()
    system.loop.attachments.detach_worker(system.worker)
    await system.publisher.write()
    assert await system.found(blocks) == {}
    system.attach()
    await system.publisher.write()
    assert await system.found(blocks) == {}
    system.answer(1)
    await system.publisher.write()
    assert await system.found(blocks) == {HERE: 2}


async def test_kept_blocks_are_published_when_the_worker_attaches() -> None:
    system = System()
    system.attach()
    blocks = system.answer(1)
    again = PlanWorker(system.fake.info, system.fake.memory)
    system.loop.attachments.attach_worker(again.info, again, list(again.memory.names.items()))
    await system.publisher.write()
    assert await system.found(blocks) == {HERE: 2}


async def test_an_index_that_was_flushed_is_filled_again_with_the_next_renewal() -> None:
    system = System()
    system.attach()
    blocks = system.answer(1)
    await system.publisher.write()
    system.index.flush()
    await system.publisher.write()
    assert await system.found(blocks) == {}
    system.clock.advance(RENEW_S)
    await system.publisher.write()
    assert await system.found(blocks) == {HERE: 2}


async def test_what_an_index_missed_while_it_was_down_is_published_when_it_is_back() -> None:
    system = System()
    system.attach()
    await system.publisher.write()
    system.index.is_down = True
    blocks = system.answer(1)
    await system.publisher.write()
    assert system.counters.num_dropped == 2 and await system.found(blocks) == {}
    system.index.is_down = False
    system.clock.advance(RENEW_S)
    await system.publisher.write()
    assert await system.found(blocks) == {HERE: 2}


async def test_what_was_evicted_while_the_index_was_down_is_not_found_when_it_is_back() -> None:
    system = System(num_pages=5)
    system.attach()
    first = system.answer(1)
    await system.publisher.write()
    system.index.is_down = True
    second = system.answer(20, num_tokens=13)
    await system.publisher.write()
    system.index.is_down = False
    await system.publisher.write()
    assert await system.found(first) == {HERE: 1}, "the tail is gone, and the index did not hear of it at first"
    assert await system.found(second) == {HERE: 3}


async def test_an_eviction_that_the_queue_dropped_is_no_longer_found_either() -> None:
    system = System(max_pending=3, num_pages=5)
    system.attach()
    first = system.answer(1)
    await system.publisher.write()
    second = system.answer(20, num_tokens=13)
    assert system.counters.num_dropped == 1
    await system.publisher.write()
    assert await system.found(first) == {HERE: 1} and await system.found(second) == {HERE: 3}


async def test_leases_are_renewed_and_blocks_refreshed_for_as_long_as_the_worker_is_there() -> None:
    system = System()
    system.attach()
    blocks = system.answer(1)
    await system.publisher.write()
    published = system.index.num_published
    for _ in range(5):
        system.clock.advance(RENEW_S)
        await system.publisher.write()
    assert await system.found(blocks) == {HERE: 2} and system.index.num_published == published
    for _ in range(4):
        system.clock.advance(REFRESH_S)
        await system.publisher.write()
        assert await system.found(blocks) == {HERE: 2}
    assert system.index.num_published == published + 4 * 2


async def test_an_index_that_stays_down_is_not_offered_everything_again_and_again() -> None:
    system = System()
    system.attach()
    system.index.is_down = True
    system.answer(1)
    for _ in range(10):
        await system.publisher.write()
        system.clock.advance(RENEW_S)
    assert system.counters.num_dropped == 2


async def test_a_busy_worker_still_renews() -> None:
    system = System(num_pages=64)
    system.attach()
    renewals = 0
    for number in range(10):
        system.answer(1 + number)
        before = len(system.index.publications)
        await system.publisher.write()
        renewals += 0 in system.index.publications[before:]
        system.clock.advance(RENEW_S / 2)
    assert renewals == 5


async def test_a_full_queue_drops_the_oldest_changes_and_counts_them() -> None:
    system = System(max_pending=3)
    system.attach()
    await system.publisher.write()
    first, second = system.answer(1), system.answer(20)
    await system.publisher.write()
    assert system.counters.num_dropped == 1
    assert await system.found(first) == {} and await system.found(second) == {HERE: 2}
    assert await system.found(first[1:]) == {HERE: 1}


async def test_a_scheduler_that_was_replaced_stops_publishing(caplog: pytest.LogCaptureFixture) -> None:
    system = System()
    system.attach()
    blocks = system.answer(1)
    await system.publisher.write()
    [holder] = await system.index.lookup(MODEL, blocks)
    await system.index.drop(holder)
    for _ in range(3):
        system.clock.advance(RENEW_S)
        await system.publisher.write()
    assert await system.found(blocks) == {}
    assert caplog.messages.count("prefix index has a later epoch of the worker; its blocks are not published") == 1


async def test_closing_says_goodbye() -> None:
    system = System()
    system.attach()
    blocks = system.answer(1)
    await system.publisher.write()
    [holder] = await system.index.lookup(MODEL, blocks)
    dropped: list[Holder] = []

    async def drop(holder: Holder) -> None:
        dropped.append(holder)

    system.index.drop = drop  # type: ignore[method-assign]  # so that the test sees the call before the index is closed
    await system.publisher.close()
    assert dropped == [holder]
