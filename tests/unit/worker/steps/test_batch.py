"""Tests of the flat batch, and of the rules that a step must follow before one is built."""

from typing import Any

import pytest

from pagoda.wire.sampling import SamplingParams
from worker.errors import StepError
from worker.steps.batch import build_batch
from worker.steps.sequence import RunningSequences
from worker.steps.step import NewSequence, ScheduledSequence, Step


def sequences() -> RunningSequences:
    return RunningSequences(page_size=4, num_pages=10, vocab_size=100)


def new(sequence_id: int, token_ids: tuple[int, ...], *, attempt: int = 1, **sampling: Any) -> NewSequence:
    return NewSequence(
        sequence_id=sequence_id,
        attempt=attempt,
        token_ids=token_ids,
        num_prompt_tokens=len(token_ids),
        sampling=SamplingParams(temperature=0.0, **sampling),
        sample_index=0,
    )


def scheduled(
    sequence_id: int, start: int, num_tokens: int, pages: tuple[int, ...] = (), *, sample: bool = False
) -> ScheduledSequence:
    return ScheduledSequence(sequence_id, start, start, num_tokens, pages, max_new_tokens=int(sample))


def test_chunks_lie_behind_each_other_with_the_slots_of_their_pages() -> None:
    running = sequences()
    step = Step(
        step_id=1,
        new_sequences=(new(1, (11, 12, 13, 14, 15)), new(2, (21, 22, 23, 24, 25, 26))),
        # The first sequence is computed whole, over two pages; the second from its third token on, but not to its end.
        scheduled=(scheduled(1, 0, 5, (7, 3), sample=True), scheduled(2, 2, 3, (5, 0, 9))),
    )
    batch = build_batch(running.apply(step), page_size=4)
    assert batch.token_ids_T.tolist() == [11, 12, 13, 14, 15, 23, 24, 25]
    assert batch.positions_T.tolist() == [0, 1, 2, 3, 4, 2, 3, 4]
    assert batch.slots_T.tolist() == [28, 29, 30, 31, 12, 22, 23, 0]
    assert batch.query_starts == (0, 5, 8)
    assert batch.context_lens == (5, 5)
    # Page 9 was granted ahead and is still empty.
    assert batch.block_tables_SB.tolist() == [[7, 3], [5, 0]]
    assert batch.sample_rows_R.tolist() == [4]


def test_shorter_block_tables_are_padded_with_page_0() -> None:
    running = sequences()
    step = Step(
        step_id=1,
        new_sequences=(new(1, (1,)), new(2, tuple(range(9)))),
        scheduled=(scheduled(1, 0, 1, (6,), sample=True), scheduled(2, 0, 9, (1, 2, 3), sample=True)),
    )
    batch = build_batch(running.apply(step), page_size=4)
    assert batch.block_tables_SB.tolist() == [[6, 0, 0], [1, 2, 3]]
    assert batch.sample_rows_R.tolist() == [0, 9]


def test_a_decode_takes_the_token_that_was_sampled_before() -> None:
    running = sequences()
    [chunk] = running.apply(
        Step(step_id=1, new_sequences=(new(1, (1, 2)),), scheduled=(scheduled(1, 0, 2, (4,), sample=True),))
    )
    chunk.sequence.settle(chunk)
    chunk.sequence.append(77)
    chunks = running.apply(Step(step_id=2, scheduled=(scheduled(1, 2, 1, sample=True),)))
    batch = build_batch(chunks, page_size=4)
    assert batch.token_ids_T.tolist() == [77]
    assert batch.slots_T.tolist() == [18]


def test_stopped_sequences_are_left_out() -> None:
    running = sequences()
    [chunk] = running.apply(
        Step(step_id=1, new_sequences=(new(1, (1, 2)),), scheduled=(scheduled(1, 0, 2, (4,), sample=True),))
    )
    chunk.sequence.settle(chunk)
    chunk.sequence.append(77)
    chunk.sequence.is_stopped = True
    assert running.apply(Step(step_id=2, scheduled=(scheduled(1, 2, 1, sample=True),))) == []


def test_finished_sequences_are_forgotten_before_new_ones_are_added() -> None:
    running = sequences()
    running.apply(Step(step_id=1, new_sequences=(new(1, (1, 2)),)))
    [chunk] = running.apply(
        Step(
            step_id=2,
            finished_sequence_ids=(1,),
            new_sequences=(new(1, (1, 2, 3), attempt=2),),
            scheduled=(scheduled(1, 0, 3, (2,), sample=True),),
        )
    )
    assert (chunk.sequence.attempt, chunk.sequence.block_table, len(running)) == (2, [2], 1)


@pytest.mark.parametrize("num_known", [3, 4, 5])
def test_a_decode_starts_where_the_sequence_is_within_the_range_of_the_plan(num_known: int) -> None:
    running = sequences()
    running.apply(Step(step_id=0, new_sequences=(new(1, tuple(range(num_known))),)))
    [chunk] = running.apply(
        Step(step_id=1, scheduled=(ScheduledSequence(1, 2, 4, num_tokens=1, new_page_ids=(0, 1), max_new_tokens=2),))
    )
    assert (chunk.start, chunk.end) == (num_known - 1, num_known)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(step_id=1, scheduled=(scheduled(9, 0, 1),)), "sequence 9 is scheduled but unknown"),
        (
            Step(step_id=1, scheduled=(scheduled(1, 4, 1, (0, 1)),)),
            r"tokens \[4, 5\) are scheduled, but only 3 are known",
        ),
        (Step(step_id=1, scheduled=(scheduled(1, 0, 0, (0,)),)), "at least one token is needed"),
        (
            Step(step_id=1, scheduled=(scheduled(1, 0, 2, (0,), sample=True),)),
            "a sampled chunk must end with the last known token",
        ),
        (
            Step(step_id=1, scheduled=(ScheduledSequence(1, 0, 1, 1, (0,), max_new_tokens=2),)),
            r"tokens \[1, 2\) are scheduled and sampled, but 3 are known",
        ),
        (
            Step(step_id=1, scheduled=(ScheduledSequence(1, 3, 4, 1, (0,), max_new_tokens=2),)),
            r"tokens \[3, 4\) are scheduled, but only 3 are known",
        ),
        (
            Step(step_id=1, scheduled=(ScheduledSequence(1, 0, 3, 1, (0,), max_new_tokens=3),)),
            "1 pages of 4 tokens cannot hold 5 tokens",
        ),
        (Step(step_id=1, scheduled=(scheduled(1, 0, 3),)), "0 pages of 4 tokens cannot hold 3 tokens"),
        (Step(step_id=1, scheduled=(scheduled(1, 0, 3, (10,)),)), r"page ids must be less than 10 \(got 10\)"),
        (Step(step_id=1, scheduled=(scheduled(1, 0, 1, (0,)), scheduled(1, 1, 1))), "schedules a sequence twice"),
        (Step(step_id=1, new_sequences=(new(1, (1, 2)),)), "is new with attempt 1, but attempt 1 is running"),
        (Step(step_id=1, new_sequences=(new(2, ()),)), "has 0 tokens"),
        (
            Step(step_id=1, new_sequences=(new(2, (100,)),)),
            r"token ids must be less than the vocabulary size of 100 \(got 100\)",
        ),
        (
            Step(step_id=1, new_sequences=(new(2, (1,), logit_bias={100: 1.0}),)),
            "token ids in sampling must be less than",
        ),
        (
            Step(step_id=1, new_sequences=(new(2, (1,), bad_words=((1,), (2, 100))),)),
            "token ids in sampling must be less than",
        ),
    ],
)
def test_a_step_that_cannot_be_executed_is_refused_with_the_reason(step: Step, reason: str) -> None:
    running = sequences()
    running.apply(Step(step_id=0, new_sequences=(new(1, (1, 2, 3)),)))
    with pytest.raises(StepError, match=reason):
        running.apply(step)
