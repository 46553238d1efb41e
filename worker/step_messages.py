"""Steps and results between their protobuf form and the dataclasses of step.py."""

from pagoda.sampling import SamplingParams
from protos.v1 import worker_pb2
from worker.errors import StepError
from worker.step import NewSequence, SampledTokens, ScheduledSequence, ScoredTokens, Step, StepResult


def step_from_proto(message: worker_pb2.Step) -> Step:
    if message.max_steps > 1:
        raise StepError(f"step {message.step_id} leases {message.max_steps} steps, this worker runs one at a time")
    return Step(
        step_id=message.step_id,
        finished_sequence_ids=tuple(message.finished_sequence_ids),
        new_sequences=tuple(_new_sequence(new) for new in message.new_sequences),
        scheduled=(*map(_scheduled, message.scheduled), *_decode_batch(message.decode_batch)),
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
    )


def _decode_batch(message: worker_pb2.DecodeBatch) -> list[ScheduledSequence]:
    if len(message.sequence_ids) != len(message.starts):
        raise StepError(f"a decode_batch has {len(message.sequence_ids)} sequences and {len(message.starts)} starts")
    return [
        ScheduledSequence(sequence_id=sequence_id, start=start, num_tokens=1, new_page_ids=(), sample=True)
        for sequence_id, start in zip(message.sequence_ids, message.starts, strict=True)
    ]


def result_to_proto(result: StepResult, session_id: int) -> worker_pb2.StepResult:
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
