"""Tests that native code chooses the tokens of its reference implementation in numpy, for any logits and parameters."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pagoda.wire.sampling import SamplingParams
from tests.kernels.native import native_library, threads
from worker.kernels.logit_adjustment import Adjustment
from worker.kernels.native import load
from worker.kernels.native.build import BuildError
from worker.kernels.native.sampling import NativeChooser
from worker.kernels.sampling import Choice, ChooseTokens, Chosen, Logits, choose_tokens
from worker.kernels.select import select_chooser

NATIVE = NativeChooser(native_library())
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 129, 1000, 5000]))
TEMPERATURES = st.one_of(st.just(0.0), st.floats(1e-3, 10.0), st.sampled_from([1e-40, 1e-320]))
PARAMETERS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": TEMPERATURES,
    "top_k": st.one_of(st.just(0), st.integers(1, 60), st.integers(100, 6000)),
    "top_p": st.one_of(st.just(1.0), st.floats(1e-6, 1.0), st.sampled_from([1e-320, math.nextafter(1.0, 0.0)])),
    "min_p": st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
}
PENALTIES: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": st.one_of(st.just(1.0), st.floats(0.5, 2.0), st.sampled_from([1e-320, 1e-30, 100.0])),
    "repetition_window": st.sampled_from([0, 1, 3, 64]),
    "frequency_penalty": st.one_of(st.just(0.0), st.floats(-2.0, 2.0)),
    "presence_penalty": st.one_of(st.just(0.0), st.floats(-2.0, 2.0)),
}
# All fields are named, because hypothesis would generate those with a default, such as ids outside the vocabulary.
NEUTRAL = {"adjustment": st.none(), "banned_ids": st.just(np.empty(0, np.int32)), "mask_W": st.none()}
CHOICES = st.builds(Choice, st.builds(SamplingParams, **PARAMETERS), st.integers(0, 2**64 - 1), **NEUTRAL)
HARD = [0.0, -0.0, 1e-45, -math.inf, 3e38, -3e38]
UNUSABLE = [math.nan, math.copysign(math.nan, -1.0), math.inf]


@st.composite
def rows(draw: st.DrawFn) -> Logits:
    """Generate rows from peaked to flat, with and without ties."""
    size, generator = draw(SIZES), np.random.default_rng(draw(st.integers(0, 1000)))
    logits_V = generator.standard_normal(size) * draw(st.sampled_from([0.0, 1e-7, 0.3, 3.0, 30.0]))
    if step := draw(st.sampled_from([0.0, 0.25, 4.0])):
        logits_V = np.round(logits_V / step) * step
    logits_V[draw(st.integers(0, size - 1)) :: draw(st.integers(1, 7))] += draw(st.sampled_from([0.0, 20.0, -math.inf]))
    for value in draw(st.lists(st.sampled_from(HARD), max_size=2)):
        logits_V[draw(st.integers(0, size - 1))] = value
    return logits_V.astype(np.float32)


@st.composite
def adjusted_choices(draw: st.DrawFn, vocab_size: int) -> Choice:
    """Generate bias, bans and penalties of a sequence whose last tokens were generated one by one."""
    token_id = st.integers(0, vocab_size - 1)
    bias = draw(st.dictionaries(token_id, st.floats(-100, 100), max_size=5))
    sampling = SamplingParams(
        **{name: draw(values) for name, values in (PARAMETERS | PENALTIES).items()}, logit_bias=bias
    )
    tokens = draw(st.lists(token_id, min_size=1, max_size=150))
    num_prompt_tokens = draw(st.integers(1, len(tokens)))
    num_before = draw(st.integers(num_prompt_tokens, len(tokens)))
    adjustment = Adjustment.of(sampling, tokens[:num_before], num_prompt_tokens)
    if adjustment is not None:
        for generated in tokens[num_before:]:
            adjustment.count_output(generated)
    banned_ids = np.array(draw(st.lists(token_id, max_size=3)), np.int32)
    return Choice(sampling, draw(st.integers(0, 2**64 - 1)), adjustment, banned_ids, draw(masks(vocab_size)))


def masks(vocab_size: int) -> st.SearchStrategy[NDArray[np.int32] | None]:
    """Generate masks from one token to all, with words that have no bit, all bits, or some; or no mask."""
    word = st.one_of(st.just(0), st.just(-1), st.integers(-(1 << 31), (1 << 31) - 1))
    words = st.lists(word, min_size=-(-vocab_size // 32), max_size=-(-vocab_size // 32))
    one_token = st.integers(0, vocab_size - 1).map(lambda token_id: one_bit(token_id, vocab_size))
    return st.one_of(st.none(), one_token, words.map(lambda values: np.array(values, np.int32)))


def one_bit(token_id: int, vocab_size: int) -> NDArray[np.int32]:
    is_allowed = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    is_allowed[token_id] = 1
    return np.packbits(is_allowed, bitorder="little").view(np.int32)


def bits_of(chosen: list[Chosen]) -> list[tuple[int, bytes]]:
    """Return bits that can be compared: NaN does not equal itself as a float, and zeros of either sign must be equal."""
    return [(token_id, np.float32(logit).tobytes()) for token_id, logit in chosen]


@given(rows(), st.lists(CHOICES, min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=300)
def test_native_code_chooses_what_the_reference_chooses(
    logits_V: Logits, choices: list[Choice], data: st.DataObject
) -> None:
    choices = [*choices, *data.draw(st.lists(adjusted_choices(len(logits_V)), max_size=3))]
    of_rows, before = [logits_V] * len(choices), logits_V.copy()
    assert bits_of(NATIVE(of_rows, choices)) == bits_of(choose_tokens(of_rows, choices))
    assert np.array_equal(logits_V, before)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("choose", [NATIVE, choose_tokens], ids=["native", "reference"])
def test_a_masked_token_is_never_chosen(choose: ChooseTokens, temperature: float) -> None:
    generator = np.random.default_rng(5)
    for token_id in (0, 31, 32, 999):
        logits_V = generator.standard_normal(1000).astype(np.float32)
        choice = Choice(
            SamplingParams(temperature=temperature, top_k=40, top_p=0.9), 1 << 63, mask_W=one_bit(token_id, 1000)
        )
        assert choose([logits_V], [choice]) == [(token_id, logits_V[token_id])]


@given(rows(), CHOICES, st.sampled_from(UNUSABLE), st.data())
@settings(deadline=None, max_examples=50)
def test_an_unusable_logit_is_the_answer(
    logits_V: Logits, choice: Choice, unusable: float, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(logits_V) - 1))
    logits_V[place] = unusable
    for choose in (NATIVE, choose_tokens):
        [(token_id, logit)] = choose([logits_V], [choice])
        assert token_id == place
        assert not math.isfinite(logit)


def test_no_logit_is_left() -> None:
    nothing = np.full(300, -np.inf, np.float32)
    assert (
        NATIVE([nothing], [Choice(SamplingParams(), 7)])
        == choose_tokens([nothing], [Choice(SamplingParams(), 7)])
        == [(0, -math.inf)]
    )


@pytest.mark.parametrize("count", [1, 3])
def test_many_rows_of_a_large_vocabulary_on_any_number_of_threads(count: int) -> None:
    generator = np.random.default_rng(count)
    logits_RV = generator.standard_normal((12, 150_001)).astype(np.float32) * 2
    filters: list[dict[str, Any]] = [{}, {"top_p": 0.99}, {"top_k": 2000}, {"top_k": 50, "top_p": 0.9}]
    choices = [
        Choice(SamplingParams(temperature=0.7, **filters[row % 4]), int(generator.integers(1 << 63)))
        for row in range(12)
    ]
    with threads(count):
        assert NATIVE(list(logits_RV), choices) == choose_tokens(list(logits_RV), choices)


def test_no_rows() -> None:
    assert NATIVE([], []) == []


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "build_library", lambda directory, compiler, architecture: directory)
    monkeypatch.setattr(load, "load_library", lambda path: native_library())


def test_a_worker_chooses_natively_where_it_can(built: None, tmp_path: Path) -> None:
    assert isinstance(select_chooser(tmp_path), NativeChooser)
    assert select_chooser(None) is choose_tokens


def test_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def no_compiler() -> list[str]:
        raise BuildError("there is no C compiler")

    monkeypatch.setattr(load, "find_compiler", no_compiler)
    with caplog.at_level(logging.INFO):
        assert select_chooser(tmp_path) is choose_tokens
    assert [record.__dict__["reason"] for record in caplog.records] == ["there is no C compiler"]


def test_other_tokens(
    built: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Change a constant, so that native code chooses other tokens."""
    monkeypatch.setattr("worker.kernels.native.sampling.exponent_factor", lambda temperature: 2 / temperature)
    with caplog.at_level(logging.INFO):
        assert select_chooser(tmp_path) is choose_tokens
    assert "other tokens than numpy on this machine" in caplog.records[0].__dict__["reason"]
