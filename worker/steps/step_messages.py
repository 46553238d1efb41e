"""Steps and results between their protobuf form and the dataclasses of step.py."""

from pagoda.wire.sampling import SamplingParams
from protos.v1 import worker_pb2
from worker.errors import StepError
from worker.steps.step import NewSequence, SampledTokens, ScheduledSequence, ScoredTokens, Step, StepResult


def step_from_proto(message: worker_pb2.Step) -> Step:
    """Raises StepError for a step that contradicts itself."""
    scheduled = (*map(_scheduled, message.scheduled), *_decode_batch(message.decode_batch))
    if message.max_steps > 1 and not all(each.num_tokens == 1 and each.sample for each in scheduled):
        raise StepError(f"step {message.step_id} leases {message.max_steps} steps to sequences that do not decode")
    return Step(
        step_id=message.step_id,
        finished_sequence_ids=tuple(message.finished_sequence_ids),
        new_sequences=tuple(_new_sequence(new) for new in message.new_sequences),
        scheduled=scheduled,
        max_steps=max(1, message.max_steps),
    )


def _new_sequence(message: worker_pb2.NewSequence) -> NewSequence:
    return NewSequence(
        sequence_id=message.sequence_id,
        attempt=message.attempt,
        token_ids=tuple(message.token_ids),
        num_prompt_tokens=message.num_prompt_tokens,
        sampling=SamplingParams.from_proto(message.sampling),
        sample_index=message.sample_index,
    )


def _scheduled(message: worker_pb2.ScheduledSequence) -> ScheduledSequence:
    return ScheduledSequence(
        sequence_id=message.sequence_id,
        start=message.start,
        num_tokens=message.num_tokens,
        new_page_ids=tuple(message.new_page_ids),
        sample=message.sample,
        num_steps=max(1, message.num_steps),
    )


def _decode_batch(message: worker_pb2.DecodeBatch) -> list[ScheduledSequence]:
    num_sequences = len(message.sequence_ids)
    num_steps = message.num_steps or [1] * num_sequences
    if not num_sequences == len(message.starts) == len(num_steps):
        raise StepError(
            f"a decode_batch has {num_sequences} sequences, {len(message.starts)} starts and {len(num_steps)} num_steps"
        )
    columns = zip(message.sequence_ids, message.starts, num_steps, strict=True)
    return [ScheduledSequence(sequence_id, start, 1, (), True, steps) for sequence_id, start, steps in columns]


def result_to_proto(result: StepResult, session_id: int, *, next_is_last: bool = False) -> worker_pb2.StepResult:
    plain = [sampled for sampled in result.sampled if sampled.is_one_token]
    others = [sampled for sampled in result.sampled if not sampled.is_one_token]
    return worker_pb2.StepResult(
        session_id=session_id,
        step_id=result.step_id,
        sampled=[_sampled(sampled) for sampled in others],
        sampled_batch=worker_pb2.SampledBatch(
            sequence_ids=[sampled.sequence_id for sampled in plain],
            attempts=[sampled.attempt for sampled in plain],
            token_ids=[sampled.token_ids[0] for sampled in plain],
        ),
        step_us=result.step_us,
        scored=[_scored(scored) for scored in result.scored],
        next_is_last=next_is_last,
    )


def _sampled(sampled: SampledTokens) -> worker_pb2.SampledTokens:
    return worker_pb2.SampledTokens(
        sequence_id=sampled.sequence_id,
        attempt=sampled.attempt,
        token_ids=sampled.token_ids,
        logprobs=[logprobs.to_proto() for logprobs in sampled.logprobs],
        stopped=sampled.stopped,
        stop_token_id=sampled.stop_token_id,
    )


def _scored(scored: ScoredTokens) -> worker_pb2.ScoredTokens:
    return worker_pb2.ScoredTokens(
        sequence_id=scored.sequence_id,
        attempt=scored.attempt,
        start=scored.start,
        logprobs=[logprobs.to_proto() for logprobs in scored.logprobs],
    )
