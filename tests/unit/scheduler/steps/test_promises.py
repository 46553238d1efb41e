"""Tests of a sequence's token counts while steps are in flight, compared with those of its worker."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache.page_pool import PagePool
from scheduler.steps.sequence import Sequence
from tests.unit.scheduler.steps.test_planner import PAGE, Given, make

PROMPT_LEN = 6


class Account:
    """A sequence, and its number of tokens on the worker, which the test knows as soon as a step is sent."""

    def __init__(self, max_length: int) -> None:
        self.pool = PagePool(64)
        self.sequence: Sequence = make(self.pool, Given("a", PROMPT_LEN, max_length=max_length), 1)
        self.in_flight: deque[tuple[int, int]] = deque()
        """Maximum and actual number of new tokens of each step in flight."""
        self.actual_len = PROMPT_LEN

    def send(self, max_new_tokens: int, num_new_tokens: int) -> None:
        sequence = self.sequence
        num_pending = sequence.num_pending
        if not num_pending:
            return
        max_new_tokens = min(max_new_tokens, sequence.max_length - sequence.length)
        num_computed = sequence.computation.num_computed + num_pending + max_new_tokens - 1
        sequence.computation.block_table += self.pool.allocate_pages(sequence.num_new_pages(num_computed))
        least, most = (
            sequence.computation.num_computed - sequence.computation.num_uncertain,
            sequence.computation.num_computed,
        )
        assert least <= self.actual_len - num_pending <= most, "the worker is outside the range of the plan"
        sequence.computation.begin_chunk(num_pending, max_new_tokens)
        num_new_tokens = min(max_new_tokens, num_new_tokens)
        self.in_flight.append((max_new_tokens, num_new_tokens))
        self.actual_len += num_new_tokens

    def answer(self) -> None:
        if self.in_flight:
            max_new_tokens, num_new_tokens = self.in_flight.popleft()
            self.sequence.append_tokens([7] * num_new_tokens, max_new_tokens)

    def check(self) -> None:
        sequence = self.sequence
        least = sequence.length - sequence.computation.num_uncertain
        assert least == len(sequence.token_ids) + len(self.in_flight)
        assert least <= self.actual_len <= sequence.length <= sequence.max_length
        assert sequence.computation.num_computed <= len(sequence.computation.block_table) * PAGE, (
            "the pages do not hold what may be computed"
        )
        if sequence.computation.num_computed:
            assert sequence.computation.num_computed == sequence.length - 1
        if not self.in_flight:
            assert (
                sequence.length == len(sequence.token_ids) == self.actual_len
                and sequence.computation.num_uncertain == 0
            )
        # Only blocks count whose tokens are known, and computed by the steps that were sent in any case.
        sequence.take_sealable_pages()
        assert sequence.computation.num_sealed * PAGE <= min(len(sequence.token_ids), max(0, self.actual_len - 1))


steps = st.tuples(st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=300)
@given(actions=st.lists(st.none() | steps, max_size=60), max_length=st.integers(PROMPT_LEN + 1, 80))
def test_the_worker_is_within_the_least_and_the_most(actions: list[tuple[int, int] | None], max_length: int) -> None:
    account = Account(max_length)
    for action in actions:
        if action is None:
            account.answer()
        else:
            account.send(*action)
        account.check()
    while account.in_flight:
        account.answer()
        account.check()


@given(steps=st.lists(steps, min_size=1, max_size=4))
def test_a_sequence_that_leaves_its_worker_owes_and_holds_nothing(steps: list[tuple[int, int]]) -> None:
    account = Account(max_length=80)
    for step in steps:
        account.send(*step)
    sequence = account.sequence
    account.pool.release_pages(sequence.computation.give_up())
    assert account.pool.num_used == 0
    assert (sequence.length, sequence.computation.num_uncertain, sequence.num_pending) == (PROMPT_LEN, 0, PROMPT_LEN)
