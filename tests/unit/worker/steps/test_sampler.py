"""Tests of the sampler: the documented order of steps, repeatable draws, and rows that do not affect each other."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.wire.sampling import SamplingParams
from worker.errors import SamplingError
from worker.steps.philox import philox, random_bits
from worker.steps.sampler import sample_tokens, token_logprobs
from worker.steps.sequence import RunningSequence
from worker.steps.step import NewSequence

EOS = frozenset({0})
# Chi-square, 7 degrees of freedom, p = 0.001. The draws are fixed by their seed, so the test cannot flake.
CHI_SQUARE_LIMIT = 24.3


def sequence(
    prompt: tuple[int, ...] = (1,), generated: tuple[int, ...] = (), *, sample_index: int = 0, **sampling: Any
) -> RunningSequence:
    new = NewSequence(
        sequence_id=1,
        attempt=1,
        token_ids=prompt + generated,
        num_prompt_tokens=len(prompt),
        sampling=SamplingParams(**sampling),
        sample_index=sample_index,
    )
    return RunningSequence.from_new(new, vocab_size=100)


def sample(logits: list[float], of: RunningSequence) -> int:
    [token] = sample_tokens(np.array([logits], np.float32), [of], EOS)
    return token


def tokens_drawn(logits: list[float], count: int = 200, **sampling: Any) -> set[int]:
    return {sample(logits, sequence(seed=seed, **sampling)) for seed in range(count)}


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox(counter, key) == expected


def test_random_numbers_differ_by_seed_sample_and_position() -> None:
    places = [(seed, sample, position) for seed in (0, 1, 1 << 40) for sample in range(3) for position in range(3)]
    assert len({random_bits(*place) for place in places}) == len(places)


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40)
SAMPLING: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "top_p": st.sampled_from([0.1, 0.7, 1.0]),
        "top_k": st.integers(0, 50),
        "min_p": st.sampled_from([0.0, 0.2]),
        "presence_penalty": st.sampled_from([0.0, 1.5]),
        "frequency_penalty": st.sampled_from([0.0, -0.5]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "seed": st.integers(0, 2**64 - 1),
        "min_tokens": st.integers(0, 2),
    }
)


@given(st.data(), st.integers(2, 40), st.integers(2, 5))
@settings(deadline=None)
def test_a_row_gets_the_same_token_alone_and_in_any_batch(data: st.DataObject, vocab_size: int, num_rows: int) -> None:
    row = st.lists(st.floats(-30, 30, width=32), min_size=vocab_size, max_size=vocab_size)
    logits = np.array(data.draw(st.lists(row, min_size=num_rows, max_size=num_rows)), np.float32)
    sequences = [sequence(generated=(1, 1), **data.draw(SAMPLING)) for _ in range(num_rows)]
    alone = [sample_tokens(logits[i : i + 1], [sequences[i]], EOS)[0] for i in range(num_rows)]
    assert sample_tokens(logits, sequences, EOS) == alone
    backwards = sample_tokens(logits[::-1], sequences[::-1], EOS)
    assert backwards[::-1] == alone


@given(LOGITS, st.sampled_from([0.1, 1.0, 2.0]), st.integers(0, 2**64 - 1))
@settings(deadline=None)
def test_top_k_of_one_is_greedy(logits: list[float], temperature: float, seed: int) -> None:
    greedy = sample(logits, sequence(temperature=0.0))
    assert greedy == logits.index(max(logits))
    assert sample(logits, sequence(temperature=temperature, top_k=1, seed=seed)) == greedy
    assert sample(logits, sequence(temperature=temperature, top_p=1e-6, top_k=1, seed=seed)) == greedy


@pytest.mark.parametrize("vocab_size", [7, 1000, 49152])
@pytest.mark.parametrize("num_rows", [1, 3, 32])
def test_the_lowest_id_wins_a_tie_wherever_it_stands(vocab_size: int, num_rows: int) -> None:
    generator = np.random.default_rng(vocab_size + num_rows)
    logits = generator.random((num_rows, vocab_size), np.float32)
    first = generator.integers(vocab_size, size=num_rows).tolist()
    for row, lowest in enumerate(first):
        logits[row, lowest::5] = 2.0
    assert sample_tokens(logits, [sequence(temperature=0.0)] * num_rows, EOS) == first


def test_draws_follow_the_probabilities() -> None:
    probabilities = np.array([0.3, 0.25, 0.2, 0.1, 0.06, 0.05, 0.03, 0.01], np.float32)
    count = 4000
    logits = np.tile(np.log(probabilities), (count, 1))
    rows = [sequence(generated=(1,) * (i % 100), sample_index=i // 100, seed=5) for i in range(count)]
    observed = Counter(sample_tokens(logits, rows, EOS))
    expected = (probabilities * count).tolist()
    assert sum((observed[i] - expected[i]) ** 2 / expected[i] for i in range(8)) < CHI_SQUARE_LIMIT


def test_draws_from_a_whole_vocabulary_follow_the_softmax() -> None:
    """Compare draws with the softmax, grouped by rank into eighths of the probability so that rare tokens count too."""
    count, size, temperature = 4000, 1000, 0.8
    logits_V = np.random.default_rng(2).standard_normal(size).astype(np.float32) * 2
    probabilities_V = np.exp(logits_V.astype(np.float64) / temperature)
    probabilities_V /= probabilities_V.sum()
    order_V = probabilities_V.argsort()
    group_V = np.empty(size, np.int64)
    group_V[order_V] = np.minimum(probabilities_V[order_V].cumsum() * 8, 7).astype(np.int64)
    rows = [
        sequence(generated=(1,) * (i % 100), sample_index=i // 100, seed=6, temperature=temperature)
        for i in range(count)
    ]
    observed = np.bincount(group_V[sample_tokens(np.broadcast_to(logits_V, (count, size)), rows, EOS)], minlength=8)
    expected = np.bincount(group_V, probabilities_V) * count
    assert ((observed - expected) ** 2 / expected).sum() < CHI_SQUARE_LIMIT


def test_temperature_sharpens_and_flattens() -> None:
    count, logits = 1000, np.tile(np.array([0.0, math.log(3.0)], np.float32), (1000, 1))
    for temperature, probability in ((0.5, 9 / 10), (1.0, 3 / 4), (2.0, math.sqrt(3) / (1 + math.sqrt(3)))):
        rows = [sequence(temperature=temperature, seed=seed) for seed in range(count)]
        share = sum(sample_tokens(logits, rows, EOS)) / count
        assert share == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / count))


def test_the_smallest_temperature_is_nearly_greedy_and_not_an_error() -> None:
    assert tokens_drawn([1.0, 1.1, 0.9], temperature=1e-40) == {1}


LOG_PROBABILITIES = [math.log(p) for p in (0.4, 0.3, 0.2, 0.1)]


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 100}, {0, 1, 2, 3}),
        ({"top_p": 0.35}, {0}),
        ({"top_p": 0.65}, {0, 1}),
        ({"min_p": 0.6}, {0, 1}),
        ({"min_p": 0.3}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        # Among the top 3, renormalised to 4/9, 3/9, 2/9, the first two reach 0.75; among all four they would not.
        ({"top_k": 3, "top_p": 0.75}, {0, 1}),
        ({"top_p": 0.75}, {0, 1, 2}),
        ({"top_p": 0.95, "min_p": 0.45}, {0, 1, 2}),
    ],
)
def test_each_filter_acts_on_what_the_one_before_left(filters: dict[str, Any], left: set[int]) -> None:
    assert tokens_drawn(LOG_PROBABILITIES, **filters) == left


@pytest.mark.parametrize(
    ("filters", "left"), [({"top_k": 2}, {0, 1}), ({"top_p": 0.3}, {0, 1}), ({"top_p": 0.5}, {0, 1, 2})]
)
def test_the_lowest_ids_stay_among_equals(filters: dict[str, Any], left: set[int]) -> None:
    assert tokens_drawn([1.0] * 5, **filters) == left


def test_top_p_over_a_flat_distribution_of_a_large_vocabulary() -> None:
    # Half of the probability is half of the tokens, far more than are sorted at first.
    logits = np.zeros((60, 20_000), np.float32)
    rows = [sequence(top_p=0.5, seed=seed) for seed in range(60)]
    drawn = sample_tokens(logits, rows, EOS)
    assert max(drawn) < 10_000
    assert max(drawn) > 8_000


def test_penalties_by_a_worked_example() -> None:
    # Token 1 was generated twice, 2 once; 3 is in the prompt.
    def scores(**sampling: Any) -> int:
        return sample([1.0, 2.0, 1.9, 1.8], sequence((3,), (1, 1, 2), temperature=0.0, **sampling))

    assert scores() == 1
    # 1: 2.0 - 2*0.2 = 1.6; 2: 1.9 - 0.2 = 1.7; 3 is prompt and keeps 1.8.
    assert scores(frequency_penalty=0.2) == 3
    # 1: 1.9, 2: 1.8, 3: 1.8 untouched, so 1 still leads; from 0.3 on 3 does.
    assert scores(presence_penalty=0.1) == 1
    assert scores(presence_penalty=0.3) == 3
    # Prompt and output are divided by 1.1: 1.82, 1.73, 1.64; by 2.5 all fall below the unseen 0.
    assert scores(repetition_penalty=1.1) == 1
    assert scores(repetition_penalty=2.5) == 0
    # The window holds only the last token, 2.
    assert scores(repetition_penalty=2.5, repetition_window=1) == 1
    # Negative penalties invite repetition.
    assert sample([1.0, 2.0, 1.9, 2.5], sequence((3,), (1, 1, 2), temperature=0.0, frequency_penalty=-0.5)) == 1


def test_repetition_penalty_multiplies_negative_logits() -> None:
    assert sample([-1.0, -1.2], sequence((0,), temperature=0.0)) == 0
    assert sample([-1.0, -1.2], sequence((0,), temperature=0.0, repetition_penalty=1.5)) == 1


def test_logit_bias_forces_and_forbids() -> None:
    assert sample([1.0, 2.0, 3.0], sequence(temperature=0.0, logit_bias={0: 100.0})) == 0
    assert sample([1.0, 2.0, 3.0], sequence(temperature=0.0, logit_bias={2: -100.0})) == 1
    assert 2 not in tokens_drawn([1.0, 2.0, 3.0], logit_bias={2: -100.0})


def test_no_end_before_min_tokens() -> None:
    logits = [9.0, 8.0, 1.0]  # 0 is the end of generation
    early: dict[str, Any] = {"temperature": 0.0, "min_tokens": 2, "stop_token_ids": (1, 70)}
    assert sample(logits, sequence(generated=(2,), **early)) == 2
    assert sample(logits, sequence(generated=(2, 2), **early)) == 0
    # A bias does not outweigh the ban.
    assert sample(logits, sequence(generated=(2,), logit_bias={0: 100.0}, **early)) == 2


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0}, {"temperature": 0.0, "min_tokens": 5}, {"temperature": 0.7}]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_unusable_logits_are_an_error_not_a_token(sampling: dict[str, Any], bad: float) -> None:
    with pytest.raises(SamplingError, match=r"sequence 1: the model computed a logit of (nan|inf)"):
        sample([1.0, bad, 2.0], sequence(**sampling))


def test_nothing_left_to_choose_is_an_error() -> None:
    with pytest.raises(SamplingError, match="no token can be chosen"):
        sample([-math.inf, -math.inf], sequence())


def test_bans_of_all_tokens_do_not_count() -> None:
    assert sample([1.0, 2.0], sequence(min_tokens=1, stop_token_ids=(1,))) in (0, 1)


def test_logprobs_are_those_of_the_raw_logits() -> None:
    logits = np.array(LOG_PROBABILITIES, np.float32)
    found = token_logprobs(logits, 2, num_top=2)
    assert found.logprob == pytest.approx(math.log(0.2), abs=1e-6)
    assert [token for token, _ in found.top] == [0, 1]
    assert [logprob for _, logprob in found.top] == pytest.approx([math.log(0.4), math.log(0.3)], abs=1e-6)
    assert token_logprobs(logits, 2, num_top=0).top == ()
    assert [token for token, _ in token_logprobs(np.zeros(9, np.float32), 8, num_top=3).top] == [0, 1, 2]
