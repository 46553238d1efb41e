"""Tests of prefix hints from the shared index and from the gateway's own requests."""

from dataclasses import replace

from gateway.upstream.prefix_hints import PrefixHints
from kvcache.prefix_index import Holder, InMemoryPrefixIndex
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.inference_request import InferenceRequest as ScheduledRequest
from pagoda.wire.model_info import ModelInfo
from pagoda.wire.sampling import SamplingParams
from scheduler.queue.new_sequences import make_sequences
from tests.fakes.plan_worker import worker_info

WORKER = worker_info(page_size=4)
MODEL = ModelInfo(
    name=WORKER.model,
    digest=WORKER.model_digest,
    max_model_len=64,
    num_workers=1,
    num_unloaded_workers=0,
    device="cpu",
    expires_in_s=None,
    page_size=WORKER.limits.page_size,
)
PROMPT = tuple(range(1, 15))


def request(prompt: tuple[int, ...] = PROMPT, cache_salt: str = "") -> InferenceRequest:
    return InferenceRequest(
        request_id="r", model=MODEL.name, prompt_token_ids=prompt, sampling=SamplingParams(), cache_salt=cache_salt
    )


def holder(scheduler_id: str, worker_id: str) -> Holder:
    return Holder(model=MODEL.digest, scheduler_id=scheduler_id, worker_id=worker_id, epoch=1)


async def test_the_best_worker_of_each_scheduler_counts_and_blocks_have_the_schedulers_names() -> None:
    scheduled = ScheduledRequest(
        request_id="r", model=MODEL.name, prompt_token_ids=PROMPT, sampling=SamplingParams(), cache_salt="mine"
    )
    (sequence,) = make_sequences(scheduled, WORKER, first_id=1, now_s=0)
    blocks = sequence.block_hashes[1:]
    index = InMemoryPrefixIndex()
    await index.publish(holder("a", "1"), blocks[:1])
    await index.publish(holder("a", "2"), blocks[:2])
    await index.publish(holder("b", "3"), blocks[:3])
    await index.publish(holder("c", "4"), blocks[1:])
    hints = PrefixHints(index)
    assert (await hints.look_up_prefix(request(cache_salt="mine"), MODEL)).num_cached_tokens == {"a": 8, "b": 12}
    assert (await hints.look_up_prefix(request(cache_salt="other"), MODEL)).num_cached_tokens == {}


async def test_without_an_index_what_was_sent_where_is_remembered() -> None:
    hints = PrefixHints(InMemoryPrefixIndex())
    first = await hints.look_up_prefix(request(), MODEL)
    assert first.num_cached_tokens == {}
    hints.remember_sent(first, "a")
    longer = await hints.look_up_prefix(request((*PROMPT[:8], 90, 91, 92, 93)), MODEL)
    assert longer.num_cached_tokens == {"a": 8}
    hints.remember_sent(longer, "b")
    # The shared head was sent to both, last to b; the rest of the first prompt only to a.
    assert (await hints.look_up_prefix(request(), MODEL)).num_cached_tokens == {"a": 12, "b": 8}


async def test_a_prompt_that_waits_is_hashed_once_for_each_models_files() -> None:
    hints = PrefixHints(InMemoryPrefixIndex())
    first = (await hints.look_up_prefix(request(), MODEL)).blocks
    assert (await hints.look_up_prefix(request(), MODEL, first)).blocks is first
    made_again = replace(MODEL, digest="e" * 64)
    assert (await hints.look_up_prefix(request(), made_again, first)).blocks == (
        await hints.look_up_prefix(request(), made_again)
    ).blocks
    assert first.names != (await hints.look_up_prefix(request(), made_again, first)).blocks.names
