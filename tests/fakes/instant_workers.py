"""Workers that answer each step immediately, for measuring a scheduler: the real link and session over an engine without pages.

Every token is the same one and nothing is checked; `tests.fakes.worker` checks.
`python -m tests.fakes.instant_workers --scheduler ADDRESS --num-workers N --max-step-sequences N`
"""

import argparse
import asyncio
import signal

from pagoda.wire.step_result import SampledTokens, StepResult
from protos.v1 import worker_pb2
from tests.fakes.step_runner import WholeStepEngine
from worker.errors import StartError
from worker.rpc.scheduler_link import SchedulerLink
from worker.steps.engine_thread import Loaded
from worker.steps.step import Step

MODEL = "instant"
TOKEN_ID = 1
VOCAB_SIZE = 50_000
PAGE_SIZE = 16
NUM_PAGES = 65_536


class InstantEngine(WholeStepEngine):
    """A `worker.steps.engine_thread.StepRunner` that remembers only each sequence's attempt."""

    def __init__(self) -> None:
        self._attempts: dict[int, int] = {}

    def reset(self) -> None:
        self._attempts.clear()

    def run_step(self, step: Step) -> StepResult:
        for sequence_id in step.finished_sequence_ids:
            self._attempts.pop(sequence_id, None)
        for new in step.new_sequences:
            self._attempts[new.sequence_id] = new.attempt
        sampled = [
            SampledTokens(
                sequence_id=scheduled.sequence_id,
                attempt=self._attempts[scheduled.sequence_id],
                token_ids=(TOKEN_ID,),
            )
            for scheduled in step.scheduled
            if scheduled.max_new_tokens
        ]
        return StepResult(step_id=step.step_id, sampled=tuple(sampled))


def hello(worker_id: str, max_step_sequences: int) -> worker_pb2.Hello:
    model = worker_pb2.LoadedModel(
        name=MODEL,
        digest="0" * 64,
        page_size=PAGE_SIZE,
        num_pages=NUM_PAGES,
        max_model_len=8192,
        max_step_tokens=8192,
        max_step_sequences=max_step_sequences,
        vocab_size=VOCAB_SIZE,
        numerics_id="instant",
    )
    return worker_pb2.Hello(worker_id=worker_id, epoch=1, model=model, device="none")


def load_nothing(name: str, digest: str) -> Loaded:
    raise StartError("instant workers load no further model")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheduler", required=True)
    parser.add_argument("--num-workers", type=int, required=True)
    parser.add_argument("--max-step-sequences", type=int, required=True)
    arguments = parser.parse_args()
    hellos = [hello(f"instant-{n}", arguments.max_step_sequences) for n in range(arguments.num_workers)]
    links = [SchedulerLink(InstantEngine(), load_nothing, each, [arguments.scheduler]) for each in hellos]

    def stop() -> None:
        for link in links:
            link.stop()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await asyncio.gather(*(link.run() for link in links))


if __name__ == "__main__":
    asyncio.run(main())
