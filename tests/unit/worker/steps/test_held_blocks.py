"""Tests of the record of what a worker's pages hold, and of when entries are removed."""

from protos.v1 import worker_pb2
from worker.steps.held_blocks import HeldBlocks

PAGE_SIZE = 4


def named(*page_ids: int) -> list[worker_pb2.PageBlock]:
    return [worker_pb2.PageBlock(page_id=page, block_hash=bytes([page % 256]) * 16) for page in page_ids]


def held(*steps: worker_pb2.Step) -> list[int]:
    blocks = HeldBlocks(PAGE_SIZE)
    for step in steps:
        blocks.apply(step)
    return [block.page_id for message in blocks.to_proto() for block in message.blocks]


def scheduled(start: int, pages: list[int]) -> worker_pb2.ScheduledSequence:
    return worker_pb2.ScheduledSequence(sequence_id=1, start=start, num_tokens=1, new_page_ids=pages)


def test_pages_are_reported_in_the_order_in_which_they_were_named() -> None:
    assert held(worker_pb2.Step(sealed_blocks=named(5, 1)), worker_pb2.Step(sealed_blocks=named(3))) == [5, 1, 3]


def test_a_page_that_a_known_sequence_gets_is_forgotten() -> None:
    first = worker_pb2.Step(sealed_blocks=named(1, 2))
    assert held(first, worker_pb2.Step(scheduled=[scheduled(start=9, pages=[2])])) == [1]


def test_a_new_sequence_keeps_the_pages_before_its_start() -> None:
    new = worker_pb2.Step(
        new_sequences=[worker_pb2.NewSequence(sequence_id=1)],
        scheduled=[scheduled(start=2 * PAGE_SIZE, pages=[1, 2, 3])],
    )
    assert held(worker_pb2.Step(sealed_blocks=named(1, 2, 3, 4)), new) == [1, 2, 4]


def test_a_page_that_is_named_and_written_to_in_one_step_is_forgotten() -> None:
    assert held(worker_pb2.Step(sealed_blocks=named(1), scheduled=[scheduled(start=9, pages=[1])])) == []


def test_idle_pages_are_forgotten_before_blocks_are_named() -> None:
    idle = [worker_pb2.PageRange(first_page_id=2, num_pages=2**31), worker_pb2.PageRange(first_page_id=0, num_pages=1)]
    second = worker_pb2.Step(idle_pages=idle, sealed_blocks=named(3))
    assert held(worker_pb2.Step(sealed_blocks=named(0, 1, 2, 4)), second) == [1, 3]


def test_many_blocks_come_in_several_messages() -> None:
    blocks = HeldBlocks(PAGE_SIZE)
    blocks.apply(worker_pb2.Step(sealed_blocks=named(*range(10_000))))
    messages = blocks.to_proto()
    assert len(messages) == 3
    assert [block.page_id for message in messages for block in message.blocks] == list(range(10_000))
    blocks.clear()
    assert blocks.to_proto() == []
