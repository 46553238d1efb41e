"""The conversion of workers' messages between protobuf and the scheduler's dataclasses."""

from collections.abc import Sequence as Seq
from dataclasses import replace

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from pagoda.wire.constraint import Constraint
from pagoda.wire.loadable_models import LoadableModels
from protos.v1 import worker_pb2
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_plan import PlannedSequence, StepPlan
from scheduler.worker_info import ModelLimits, WorkerInfo, WorkerStore, worker_store


def worker_info_from_proto(hello: worker_pb2.Hello) -> WorkerInfo:
    model = hello.model
    return WorkerInfo(
        worker_id=hello.worker_id,
        epoch=hello.epoch,
        model=model.name,
        model_digest=model.digest,
        device=hello.device,
        numerics_id=model.numerics_id,
        weights_bytes=model.weights_bytes,
        kv_bytes=model.kv_bytes,
        limits=ModelLimits(
            page_size=model.page_size,
            num_pages=model.num_pages,
            max_model_len=model.max_model_len,
            max_step_tokens=model.max_step_tokens,
            max_step_sequences=model.max_step_sequences,
            vocab_size=model.vocab_size,
            max_new_tokens=max(1, model.max_new_tokens),
        ),
    )


def store_from_proto(hello: worker_pb2.Hello, message: worker_pb2.LoadableModels) -> WorkerStore:
    loadable = LoadableModels.from_proto(message)
    return worker_store(loadable, worker_id=hello.worker_id, epoch=hello.epoch, device=hello.device)


def held_blocks_from_proto(message: worker_pb2.HeldBlocks) -> list[tuple[PageId, BlockHash]]:
    return [(PageId(held.page_id), BlockHash(held.block_hash)) for held in message.blocks]


def plan_to_proto(plan: StepPlan, session_id: int) -> worker_pb2.Step:
    decoding = [planned for planned in plan.scheduled if planned.only_decodes]
    others = [planned for planned in plan.scheduled if not planned.only_decodes]
    numbers = _constraint_numbers(plan.new_sequences)
    return worker_pb2.Step(
        session_id=session_id,
        step_id=plan.step_id,
        finished_sequence_ids=plan.finished_sequence_ids,
        new_sequences=[_new_to_proto(sequence, numbers) for sequence in plan.new_sequences],
        scheduled=[_scheduled_to_proto(planned) for planned in others],
        decode_batch=_decode_batch(decoding, plan.max_steps),
        sealed_blocks=[worker_pb2.PageBlock(page_id=page, block_hash=block) for page, block in plan.sealed_blocks],
        max_steps=plan.max_steps,
        traceparent=plan.traceparent,
        constraints=[constraint.to_proto() for constraint in numbers],
        idle_pages=[worker_pb2.PageRange(first_page_id=run.start, num_pages=len(run)) for run in plan.idle_pages],
    )


def _constraint_numbers(sequences: Seq[Sequence]) -> dict[Constraint, int]:
    """Return the distinct constraints of the sequences, in order, with numbers from 1."""
    constraints = dict.fromkeys(each.sampling.constraint for each in sequences if each.sampling.constraint is not None)
    return {constraint: number for number, constraint in enumerate(constraints, start=1)}


def _new_to_proto(sequence: Sequence, constraint_numbers: dict[Constraint, int]) -> worker_pb2.NewSequence:
    sampling = sequence.sampling
    constraint = sampling.constraint
    return worker_pb2.NewSequence(
        sequence_id=sequence.sequence_id,
        attempt=sequence.computation.attempt,
        token_ids=sequence.token_ids,
        num_prompt_tokens=sequence.num_prompt_tokens,
        sampling=(sampling if constraint is None else replace(sampling, constraint=None)).to_proto(),
        sample_index=sequence.sample_index,
        constraint_number=0 if constraint is None else constraint_numbers[constraint],
    )


def _decode_batch(decoding: Seq[PlannedSequence], max_steps: int) -> worker_pb2.DecodeBatch:
    """Return the columns of a batch. A column is omitted if all its entries have the default value."""
    if not decoding:
        return worker_pb2.DecodeBatch()
    sequences, starts, max_starts, _, _, max_new_tokens, num_steps = zip(*decoding, strict=True)
    return worker_pb2.DecodeBatch(
        sequence_ids=[sequence.sequence_id for sequence in sequences],
        starts=starts,
        num_steps=num_steps if max_steps > 1 else (),
        max_starts=max_starts if max_starts != starts else (),
        max_new_tokens=max_new_tokens if max(max_new_tokens) > 1 else (),
    )


def _scheduled_to_proto(planned: PlannedSequence) -> worker_pb2.ScheduledSequence:
    return worker_pb2.ScheduledSequence(
        sequence_id=planned.sequence.sequence_id,
        start=planned.start,
        num_tokens=planned.num_tokens,
        new_page_ids=planned.new_page_ids,
        max_new_tokens=planned.max_new_tokens,
        num_steps=planned.num_steps,
        max_start=planned.max_start if planned.max_start > planned.start else 0,
    )
