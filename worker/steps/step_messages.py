"""Conversion of steps from protobuf messages into the dataclasses of step.py."""

from collections.abc import Sequence
from dataclasses import replace

from pagoda.wire.constraint import Constraint
from pagoda.wire.sampling import SamplingParams
from protos.v1 import worker_pb2
from worker.errors import StepError
from worker.steps.step import NewSequence, ScheduledSequence, Step


def step_from_proto(message: worker_pb2.Step) -> Step:
    """Return the step of a message. Raises StepError if the message contradicts itself."""
    scheduled = (*map(_scheduled, message.scheduled), *_decode_batch(message.decode_batch))
    if message.max_steps > 1 and not all(each.num_tokens == 1 and each.max_new_tokens for each in scheduled):
        raise StepError(
            f"step {message.step_id} is a lease of {message.max_steps} steps, but not all of its sequences decode"
        )
    constraints = [Constraint.from_proto(constraint) for constraint in message.constraints]
    return Step(
        step_id=message.step_id,
        finished_sequence_ids=tuple(message.finished_sequence_ids),
        new_sequences=tuple(_new_sequence(new, constraints) for new in message.new_sequences),
        scheduled=scheduled,
        idle_pages=tuple(range(run.first_page_id, run.first_page_id + run.num_pages) for run in message.idle_pages),
        max_steps=max(1, message.max_steps),
    )


def _new_sequence(message: worker_pb2.NewSequence, constraints: Sequence[Constraint]) -> NewSequence:
    sampling, number = SamplingParams.from_proto(message.sampling), message.constraint_number
    if number > len(constraints):
        raise StepError(
            f"sequence {message.sequence_id} has constraint_number {number}, but the step has {len(constraints)} constraints"
        )
    return NewSequence(
        sequence_id=message.sequence_id,
        attempt=message.attempt,
        token_ids=tuple(message.token_ids),
        num_prompt_tokens=message.num_prompt_tokens,
        sampling=replace(sampling, constraint=constraints[number - 1]) if number else sampling,
        sample_index=message.sample_index,
    )


def _scheduled(message: worker_pb2.ScheduledSequence) -> ScheduledSequence:
    return ScheduledSequence(
        sequence_id=message.sequence_id,
        start=message.start,
        max_start=message.max_start or message.start,
        num_tokens=message.num_tokens,
        new_page_ids=tuple(message.new_page_ids),
        max_new_tokens=message.max_new_tokens,
        num_steps=max(1, message.num_steps),
    )


def _decode_batch(message: worker_pb2.DecodeBatch) -> list[ScheduledSequence]:
    num_sequences = len(message.sequence_ids)
    num_steps = message.num_steps or [1] * num_sequences
    max_starts = message.max_starts or message.starts
    max_new_tokens = message.max_new_tokens or [1] * num_sequences
    if {len(message.starts), len(num_steps), len(max_starts), len(max_new_tokens)} != {num_sequences}:
        raise StepError(
            f"the fields of a decode_batch must be equally long (got {num_sequences} sequences, {len(message.starts)} starts, "
            f"{len(num_steps)} num_steps, {len(max_starts)} max_starts and {len(max_new_tokens)} max_new_tokens)"
        )
    columns = zip(message.sequence_ids, message.starts, max_starts, max_new_tokens, num_steps, strict=True)
    return [
        ScheduledSequence(sequence_id, start, max_start, 1, (), most, steps)
        for sequence_id, start, max_start, most, steps in columns
    ]
