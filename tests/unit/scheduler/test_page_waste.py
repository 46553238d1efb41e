"""Test of the KV memory that allocation wastes: slots of granted pages without a token, over a mixed-length workload."""

import random

import pytest

from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.loop import SchedulerLoop
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.constraints import IDLE_CONSTRAINT
from tests.fakes.plan_worker import PlanWorker, worker_info

PAGE = 16


@pytest.mark.parametrize("max_new_tokens", [1, 4, 16])
def test_less_than_four_percent_of_the_granted_memory_is_wasted(max_new_tokens: int) -> None:
    clock, client = FakeClock(), RecordingClient()
    loop = SchedulerLoop(clock)
    fake = PlanWorker(
        worker_info(
            num_pages=600,
            page_size=PAGE,
            max_model_len=2048,
            max_step_tokens=512,
            max_step_sequences=64,
            vocab_size=1000,
            max_new_tokens=max_new_tokens,
        )
    )
    worker = loop.attachments.attach_worker(fake.info, fake)
    lengths = random.Random(7)
    for number in range(60):
        # Lengths are log-normal as in real chats: prompts of about 300 tokens with a long tail, and answers of about 100.
        num_prompt = min(1500, max(4, round(lengths.lognormvariate(5.7, 0.8))))
        max_tokens = min(400, max(2, round(lengths.lognormvariate(4.6, 0.6))))
        request = InferenceRequest(
            request_id=str(number),
            model="fake",
            prompt_token_ids=[lengths.randrange(1, 1000) for _ in range(num_prompt)],
            sampling=SamplingParams(
                temperature=0.0, max_tokens=max_tokens, ignore_eos=True, constraint=IDLE_CONSTRAINT
            ),
        )
        loop.requests.submit_request(request, client)
    clock.run_soon()
    granted = held = 0
    while fake.queue:
        loop.apply_result(worker, fake.run_step())
        clock.run_soon()
        granted += worker.pool.num_used * PAGE
        held += sum(sequence.computation.num_computed for sequence in worker.running)
    assert len(client.finished) == 60
    waste = 1 - held / granted
    assert 0 < waste < 0.04, f"{waste:.1%} of the granted slots hold no token"
