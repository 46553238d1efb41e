"""Tests of the guides of running sequences: errors end one sequence only, and grammars are compiled once."""

import logging
import threading
from typing import Any

import numpy as np
import pytest

from pagoda.wire.sampling import SamplingParams
from tests.fakes.grammar_vocabulary import END_IDS, TEXTS, constrained, cut, make_vocabulary
from tests.fakes.paged_model import VOCAB_SIZE
from worker.constraints import grammars
from worker.constraints.grammars import Grammars
from worker.constraints.guides import Guides
from worker.constraints.masks import RowMask, leaves_a_token
from worker.constraints.matcher import Matcher
from worker.constraints.vocabulary import Vocabulary
from worker.steps.sequence import RunningSequence
from worker.steps.step import NewSequence


def sequence(sequence_id: int, grammar: str, generated: bytes = b"") -> RunningSequence:
    new = NewSequence(
        sequence_id=sequence_id,
        attempt=1,
        token_ids=(1, 2, *cut(generated)),
        num_prompt_tokens=2,
        sampling=SamplingParams(seed=1, constraint=constrained(grammar)),
        sample_index=0,
    )
    return RunningSequence.from_new(new, VOCAB_SIZE)


def texts(mask: RowMask) -> set[bytes]:
    assert mask.words_W is not None
    bits = np.unpackbits(mask.words_W.view(np.uint8), bitorder="little")
    return {TEXTS[token_id] for token_id in np.flatnonzero(bits).tolist()}


ENDS = {TEXTS[token_id] for token_id in END_IDS}
AB = 'start: "a" /[bc]{2}/'


def test_the_masks_of_many_sequences_are_computed_in_parts() -> None:
    guides = Guides(make_vocabulary, VOCAB_SIZE, END_IDS)
    sequences = [sequence(number, AB, b"" if number % 2 else b"a") for number in range(70)]
    masks = guides.begin_masks(sequences).wait()
    assert [texts(masks[number]) for number in range(70)] == [{b"b", b"c"}, {b"a", b"ab"}] * 35


def test_a_vocabulary_that_cannot_be_read_ends_the_sequence(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Vocabulary:
        raise OSError("the file is gone")

    guides, broken = Guides(fail, VOCAB_SIZE, END_IDS), sequence(1, AB)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert texts(guides.begin_masks([broken]).wait()[1]) == ENDS
            assert guides.take_forced(broken, 5) == ()
    assert len(caplog.records) == 1


def test_a_vocabulary_is_read_again_after_an_error() -> None:
    errors = [OSError("the file is locked")]

    def read() -> Vocabulary:
        if errors:
            raise errors.pop()
        return make_vocabulary()

    guides = Guides(read, VOCAB_SIZE, END_IDS)
    assert texts(guides.begin_masks([sequence(1, AB)]).wait()[1]) == ENDS
    assert texts(guides.begin_masks([sequence(2, AB)]).wait()[2]) == {b"a", b"ab"}


def test_no_grammar_is_compiled_with_a_vocabulary_that_could_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, may_compile, compile_now = [OSError("the file is locked")], threading.Event(), grammars._compile

    def read() -> Vocabulary:
        if errors:
            raise errors.pop()
        return make_vocabulary()

    def compile_later(*arguments: Any) -> Matcher:
        may_compile.wait()
        return compile_now(*arguments)

    monkeypatch.setattr(grammars, "_compile", compile_later)
    cache, constraint = Grammars(read), constrained(AB)
    unread, _ = cache.compile(constraint)
    assert isinstance(unread.exception(), OSError)
    _, compiled = cache.compile(constraint)  # while the first one still waits for its turn
    may_compile.set()
    assert not compiled.result().is_broken


def test_an_error_in_one_guide_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    guides = Guides(make_vocabulary, VOCAB_SIZE, END_IDS)
    good, bad = sequence(1, AB, b"a"), sequence(2, AB, b"a")
    guides.begin_masks([good, bad]).wait()
    bad.append(10_000)
    good.append(*cut(b"b"))
    masks = guides.begin_masks([good, bad]).wait()
    assert (texts(masks[1]), texts(masks[2])) == ({b"b", b"c"}, ENDS)


def test_a_forgotten_sequence_starts_again() -> None:
    guides = Guides(make_vocabulary, VOCAB_SIZE, END_IDS)
    for is_over in (False, True):
        assert texts(guides.begin_masks([sequence(1, AB, b"ab")]).wait()[1]) == {b"b", b"c"}
        if is_over:
            guides.clear()
        else:
            guides.forget([1])
        assert texts(guides.begin_masks([sequence(1, "start: /c*/")]).wait()[1]) == {b"c", *ENDS}
        guides.clear()


def test_a_model_without_a_token_that_ends_a_sequence_has_a_free_answer() -> None:
    guides = Guides(lambda: make_vocabulary(()), VOCAB_SIZE, ())
    assert guides.begin_masks([sequence(1, AB)]).wait()[1].words_W is None


def test_a_grammar_is_compiled_once_and_the_oldest_is_dropped() -> None:
    grammars = Grammars(make_vocabulary, max_grammars=2)
    constraints = [constrained(f'start: "a{letter}"') for letter in "bcd"]

    def compiled(number: int) -> Any:
        return grammars.compile(constraints[number])[1]

    first, second = compiled(0), compiled(1)
    assert (compiled(0), compiled(1)) == (first, second)
    compiled(0)
    compiled(2)
    assert compiled(0) is first and compiled(1) is not second


def test_whether_bans_leave_a_token() -> None:
    words_W = np.zeros(3, np.int32)
    words_W.view(np.uint8)[:] = np.packbits([i in (0, 31, 32, 70) for i in range(96)], bitorder="little")
    assert leaves_a_token(words_W, np.array([0, 31, 32], np.int32))
    assert not leaves_a_token(words_W, np.array([0, 31, 32, 70, 71], np.int32))
