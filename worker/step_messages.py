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
        scheduled=tuple(_scheduled(scheduled) for scheduled in message.scheduled),
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


def result_to_proto(result: StepResult, session_id: int) -> worker_pb2.StepResult:
    return worker_pb2.StepResult(
        session_id=session_id,
        step_id=result.step_id,
        sampled=[_sampled(sampled) for sampled in result.sampled],
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
