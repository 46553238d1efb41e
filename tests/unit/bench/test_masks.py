"""Tests of the measurement of masks, with an engine that answers at once."""

from types import SimpleNamespace
from typing import Any

from bench.masks import NUM_WARM_UP, Batch, ratio
from worker.steps.step import Step


class Instant:
    """An engine that returns all tokens that it may."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def begin_step(self, step: Step) -> Any:
        self.steps.append(step)
        return step

    def finish_step(self, step: Any) -> Any:
        tokens = [
            SimpleNamespace(sequence_id=each.sequence_id, token_ids=[1] * each.max_new_tokens)
            for each in step.scheduled
        ]
        return SimpleNamespace(sampled=tokens)


def test_only_constrained_sequences_get_several_tokens_and_none_outgrows_its_pages() -> None:
    engine = Instant()
    batch = Batch(engine, 4, [False, True], 16, 64)  # type: ignore[arg-type]
    batch.prefill(8, 1)
    for number in range(6):
        batch.decode(3 + number)
    new = [each for step in engine.steps for each in step.new_sequences]
    assert [(each.sequence_id, each.sampling.constraint is not None) for each in new] == [(4, False), (5, True)]
    free, constrained = zip(*(step.scheduled for step in engine.steps[2:]), strict=True)
    assert [(each.start, each.max_new_tokens) for each in free] == [(8 + number, 1) for number in range(6)]
    assert [(each.start, each.max_new_tokens) for each in constrained[:4]] == [(8, 16), (24, 16), (40, 16), (56, 8)]
    assert batch.num_constrained_tokens[:4] == [16, 16, 16, 8]


def test_the_first_steps_do_not_count() -> None:
    slow = [9.0] * NUM_WARM_UP
    assert ratio([*slow, 3.0, 4.0, 6.0], [*slow, 2.0, 2.0, 2.0]) == 2.0
