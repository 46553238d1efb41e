"""Tests of allowed_token_ids and bad_words in the sampler, natively and in numpy, and of the order in which limits yield."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.wire.sampling import SamplingParams
from tests.fakes.constraints import IDLE_CONSTRAINT
from tests.fakes.engine_driver import Driver, new_sequence
from tests.fakes.executors import EXECUTORS, Wrap
from tests.fakes.grammar_vocabulary import END_IDS, constrained, cut, spell
from tests.kernels.native import native_library
from tests.unit.worker.steps.test_sampler import sequence
from worker.constraints.masks import NO_MASK, RowMask, mask_of
from worker.kernels.native.sampling import NativeChooser
from worker.kernels.sampling import ChooseTokens, choose_tokens
from worker.steps.sampler import sample_tokens, token_logprobs
from worker.steps.sequence import RunningSequence
from worker.steps.token_limits import TokenLimits

SIZE = 100
EOS = frozenset({0})
CHOOSERS: list[ChooseTokens] = [choose_tokens, NativeChooser(native_library())]
ids = st.integers(0, SIZE - 1)
few_ids = st.integers(0, 3)
words = st.lists(st.lists(few_ids, min_size=1, max_size=4).map(tuple), min_size=1, max_size=6).map(tuple)


def sampled(of: RunningSequence, mask: RowMask = NO_MASK, seed: int = 0) -> int:
    """Return the next token over random logits, which native code and numpy choose alike."""
    logits_RV = np.random.default_rng(seed).standard_normal((1, SIZE)).astype(np.float32)
    [one], [other] = (sample_tokens(logits_RV, [of], EOS, choose, {1: mask}) for choose in CHOOSERS)
    assert one == other
    return one


def completed(output: list[int], bad_words: tuple[tuple[int, ...], ...]) -> set[int]:
    """Return the tokens after which the output would end with a bad word."""
    return {token for token in range(SIZE) for word in bad_words if tuple([*output, token])[-len(word) :] == word}


@given(st.lists(ids, min_size=1, max_size=20), st.integers(0, 100), st.sampled_from([0.0, 0.8]))
def test_only_allowed_tokens_are_chosen(allowed: list[int], seed: int, temperature: float) -> None:
    asked = sequence(allowed_token_ids=tuple(allowed), seed=seed, temperature=temperature)
    assert sampled(asked, seed=seed) in allowed


@given(st.lists(few_ids, max_size=8), st.lists(few_ids, min_size=1, max_size=8), words)
@settings(max_examples=300)
def test_the_token_that_completes_a_bad_word_is_banned(
    output: list[int], prompt: list[int], bad_words: tuple[tuple[int, ...], ...]
) -> None:
    limits = TokenLimits(SamplingParams(bad_words=bad_words), SIZE)
    found = limits.banned_ids([*prompt, *output], len(prompt))
    assert set(found.tolist()) == completed(output, bad_words)


@given(words, st.integers(0, 30))
def test_no_bad_word_is_generated(bad_words: tuple[tuple[int, ...], ...], seed: int) -> None:
    likely = {token: 40.0 for token in range(4)}
    asked = sequence((1, 2), bad_words=bad_words, logit_bias=likely, seed=seed)
    for number in range(30):
        banned = completed(asked.token_ids[2:], bad_words)
        token = sampled(asked, seed=31 * seed + number)
        assert token not in banned
        asked.append(token)


def test_without_limits_nothing_is_prepared() -> None:
    assert TokenLimits.of(SamplingParams(logprob_token_ids=(1,), num_logprobs=0), SIZE) is None


@pytest.mark.parametrize(
    ("fields", "mask", "expected"),
    [
        ({"allowed_token_ids": (5, 6)}, mask_of([6, 7], SIZE), {6}),
        ({"allowed_token_ids": (5,)}, mask_of([6, 7], SIZE), {6, 7}),
        ({"bad_words": ((6,),)}, mask_of([6, 7], SIZE), {7}),
        ({"bad_words": ((6,), (7,))}, mask_of([6, 7], SIZE), {6, 7}),
        ({"bad_words": ((5,),), "allowed_token_ids": (5, 6)}, None, {6}),
        ({"bad_words": ((5,),), "allowed_token_ids": (5,)}, None, {5}),
        ({"bad_words": ((6,),), "allowed_token_ids": (6,)}, mask_of([6, 7], SIZE), {6}),
        ({"min_tokens": 3, "allowed_token_ids": (0,)}, None, {0}),
        ({"min_tokens": 3, "allowed_token_ids": (0, 4)}, None, {4}),
        ({"min_tokens": 3, "allowed_token_ids": (0, 4)}, mask_of([0], SIZE), {0}),
        ({"bad_words": tuple((token,) for token in range(SIZE))}, None, set(range(SIZE))),
        ({"bad_words": tuple((token,) for token in range(1, SIZE)), "min_tokens": 1}, None, set(range(SIZE))),
    ],
    ids=str,
)
def test_bans_yield_to_what_is_allowed_and_that_to_the_constraint(
    fields: dict[str, Any], mask: Any, expected: set[int]
) -> None:
    found = {sampled(sequence(seed=seed, temperature=2.0, **fields), RowMask(mask), seed) for seed in range(60)}
    assert found <= expected and (len(expected) > 2 or found == expected)


def test_what_a_constraint_bans_stays_banned() -> None:
    """A free answer that must not end yet, for example, does not end because only its end is allowed."""
    mask = RowMask(None, np.array([0], np.int32))
    for fields in ({"allowed_token_ids": (0,)}, {"bad_words": tuple((token,) for token in range(1, SIZE))}):
        found = {sampled(sequence(seed=seed, temperature=2.0, **fields), mask, seed) for seed in range(30)}
        assert 0 not in found and len(found) > 1


def test_a_grammar_wins_over_the_limits_of_a_request() -> None:
    word = constrained(r'start: "ab"')
    for fields in ({"allowed_token_ids": tuple(cut(b"c"))}, {"bad_words": (tuple(cut(b"ab")),)}):
        tokens = Driver(END_IDS, num_pages=64).answer(new_sequence(constraint=word, **fields), 9)
        assert spell(tokens[:-1]) == b"ab" and tokens[-1] in END_IDS


@pytest.mark.parametrize("wrap", EXECUTORS.values(), ids=EXECUTORS)
@pytest.mark.parametrize("allowed", [(), tuple(range(20, 50))], ids=["all", "some"])
def test_a_move_repeats_the_answer(wrap: Wrap, allowed: tuple[int, ...]) -> None:
    """Bad words are matched with the tokens that an earlier worker generated, too."""
    plain = Driver((), num_pages=64).generate(new_sequence(allowed_token_ids=allowed), 24)
    bad_words = tuple(tuple(plain[start : start + 2]) for start in (3, 9, 15))
    new = new_sequence(bad_words=bad_words, allowed_token_ids=allowed, constraint=IDLE_CONSTRAINT)
    whole = Driver((), num_pages=64, wrap=wrap).generate(new, 24)
    assert whole != plain and not {*pairwise(whole)} & {*bad_words}
    for num_known in (1, 4, 10):
        moved = replace(new, token_ids=(*new.token_ids, *whole[:num_known]))
        assert Driver((), num_pages=64, wrap=wrap).generate(moved, 24 - num_known) == whole[num_known:]


def test_log_probabilities_of_named_tokens_come_in_their_order() -> None:
    logits_V = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    found = token_logprobs(logits_V, 2, num_top=1, named_ids=(3, 0, 2))
    assert [token_id for token_id, _ in found.top] == [3, 0, 2]
    assert np.exp([logprob for _, logprob in found.top]) == pytest.approx([0.1, 0.4, 0.2])
    assert found.top[2][1] == found.logprob
