"""Tests of a sequence's guide: its phases, its budget, its triggers, and replay."""

import logging
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.wire.constraint import Constraint, Marker, Reasoning
from tests.fakes.grammar_vocabulary import (
    CLOSE_ID,
    END_ID,
    END_IDS,
    END_OF_THINK,
    OPEN_ID,
    TEXTS,
    THINK,
    constrained,
    cut,
    make_vocabulary,
    spell,
)
from tests.fakes.paged_model import VOCAB_SIZE
from worker.constraints.grammars import Grammars
from worker.constraints.guide import Guide
from worker.constraints.masks import row_mask
from worker.constraints.matcher import Matcher

VOCABULARY = make_vocabulary()
ALL = set(range(VOCAB_SIZE))
GRAMMARS = Grammars(lambda: VOCABULARY)
TWO_LETTERS = r"start: /[ab]{2}/"
CALL = r'start: /.?<call>/ "{" /[0-6]+/ "}"'


def guide_of(constraint: Constraint, token_ids: Sequence[int] = ()) -> Guide:
    guide = Guide(constraint, *GRAMMARS.open(constraint))
    for token_id in token_ids:
        guide.consume(token_id)
    return guide


def allowed(guide: Guide) -> set[int]:
    mask = row_mask(guide.next_tokens(), END_IDS, guide.mask_W)
    tokens = ALL
    if mask.words_W is not None:
        tokens = set(np.flatnonzero(np.unpackbits(mask.words_W.view(np.uint8), bitorder="little")).tolist())
    return tokens - set(mask.banned_ids.tolist())


def texts_allowed(guide: Guide) -> set[bytes]:
    return {TEXTS[token_id] for token_id in allowed(guide)}


def after(constraint: Constraint, text: bytes) -> set[bytes]:
    return texts_allowed(guide_of(constraint, cut(text)))


ENDS = {TEXTS[token_id] for token_id in END_IDS}


def test_a_grammar_over_the_whole_answer() -> None:
    constraint = constrained(TWO_LETTERS)
    assert after(constraint, b"") == {b"a", b"b", b"ab"}
    assert after(constraint, b"a") == {b"a", b"b"}
    assert after(constraint, b"ab") == ENDS
    # With ignore_eos, tokens that end the sequence follow each other.
    assert texts_allowed(guide_of(constraint, [*cut(b"ab"), END_ID, END_ID])) == ENDS


def test_one_leading_space_where_the_grammar_allows_it() -> None:
    """The first token of an answer may carry a space, which the detokenizer strips."""
    assert after(constrained(r'start: / ?/ "ab"'), b"") == {b" ", b"ab", b"a"}


def reasoning(**fields: Any) -> Reasoning:
    whole: dict[str, Any] = {"open": THINK, "is_open": False, "close": END_OF_THINK} | fields
    return Reasoning(**whole)


def test_the_model_may_begin_to_reason_before_anything_else() -> None:
    by_token = constrained(TWO_LETTERS, reasoning=reasoning(open=Marker(text=b"", token_id=OPEN_ID)))
    assert after(by_token, b"") == {b"a", b"b", b"ab", b"<think>"}
    assert after(by_token, b"a") == {b"a", b"b"}
    by_text = constrained(TWO_LETTERS, reasoning=reasoning())
    assert after(by_text, b"") == {b"a", b"b", b"ab", b"<", b"<th", b"<think>"}
    assert after(by_text, b"<") == {b"t"}
    assert after(by_text, b"<th") == {b"i", b"ink>"}
    assert after(by_text, b"<thin") == {b"k"}


def test_whitespace_that_the_grammar_allows_may_precede_the_reasoning() -> None:
    constraint = constrained(r'start: /\n*/ "ab"', reasoning=reasoning())
    assert {b"\n", b"ab", b"<", b"<th"} <= after(constraint, b"\n\n")
    assert after(constraint, b"\n<") == {b"t"}
    assert b"<th" not in after(constraint, b"\na")


def test_a_part_of_the_opening_marker_is_not_the_beginning_of_the_answer() -> None:
    """The grammar allows the last letter of the part, but not the part."""
    constraint = constrained('start: "null" | "ink"', reasoning=reasoning())
    assert after(constraint, b"<th") == {b"i", b"ink>"}
    assert after(constraint, b"<thi") == {b"n"}
    assert after(constraint, b"<thin") == {b"k"}
    assert after(constraint, b"<thinu") == ENDS


def test_the_answer_may_begin_like_the_reasoning() -> None:
    constraint = constrained(r'start: "<" /[ab]{2}/', reasoning=reasoning())
    assert after(constraint, b"<") == {b"a", b"b", b"ab", b"t"}
    assert after(constraint, b"<a") == {b"a", b"b"}
    assert after(constraint, b"<t") == {b"h"}


CLOSED = st.sampled_from([[CLOSE_ID], cut(b"</think>"), cut(b"<") + cut(b"/think>"), [*cut(b"</thin"), *cut(b"k> ")]])


@given(CLOSED, st.booleans(), st.sampled_from([b"", b"a", b"a<", b"</thi</"]))
def test_reasoning_is_free_and_the_grammar_begins_after_it(closing: list[int], is_open: bool, thought: bytes) -> None:
    constraint = constrained(TWO_LETTERS, reasoning=reasoning(is_open=is_open))
    guide = guide_of(constraint, [*([] if is_open else cut(b"<think>")), *cut(thought)])
    for token_id in closing:
        assert token_id in allowed(guide)
        # The sequence does not end before the answer exists.
        assert not allowed(guide) & set(END_IDS)
        guide.consume(token_id)
    assert texts_allowed(guide) == {b"a", b"b", b"ab"}


def test_no_token_both_ends_the_reasoning_and_begins_the_answer() -> None:
    constraint = constrained(TWO_LETTERS, reasoning=reasoning(is_open=True))
    tokens = after(constraint, b"</think")
    assert b'>"' not in tokens and {b">", b"> "} <= tokens
    assert b'>"' in after(constraint, b"</thin")


CLOSING = tuple(cut(b"</think>\n"))


@pytest.mark.parametrize(
    ("budget", "thought", "num_left_out"),
    [(0, b"", 0), (1, b"a", 0), (2, b"a</", 1), (4, b"a</th", 3), (5, b"a</thi", 0), (2, b"<b", 0)],
)
def test_the_budget_forces_the_closing_tokens(budget: int, thought: bytes, num_left_out: int) -> None:
    """Check that the closing tokens are left out which the model has written, if the written part ends with one of them."""
    assert len(CLOSING) == 5
    constraint = constrained(TWO_LETTERS, reasoning=reasoning(is_open=True, budget=budget, closing_token_ids=CLOSING))
    guide = guide_of(constraint)
    for token_id in cut(thought):
        assert len(allowed(guide)) > 30
        guide.consume(token_id)
    for token_id in CLOSING[num_left_out:]:
        assert allowed(guide) == {token_id}
        guide.consume(token_id)
    assert texts_allowed(guide) == {b"a", b"b", b"ab"}


def test_a_budget_alone_leaves_the_answer_free() -> None:
    constraint = constrained(reasoning=reasoning(is_open=True, budget=1, closing_token_ids=(CLOSE_ID,)))
    guide = guide_of(constraint, cut(b"a"))
    assert allowed(guide) == {CLOSE_ID}
    guide.consume(CLOSE_ID)
    assert allowed(guide) == ALL and guide.is_free


TRIGGERED = constrained(CALL, triggers=(Marker(text=b"<call>"),))


@pytest.mark.parametrize("text", [b"a <call>", b"ab\n<", b"call>", b"<<call>"])
def test_a_trigger_starts_the_grammar_with_the_tokens_that_cover_it(text: bytes) -> None:
    pieces = cut(b"ab\n<") + cut(b"call>") if text == b"call>" else cut(text)
    guide = guide_of(TRIGGERED, pieces)
    assert texts_allowed(guide) == ({b"{"} if b"<call>" in spell(pieces) else {TEXTS[token] for token in ALL})


def test_after_a_complete_grammar_the_answer_is_free_until_the_next_trigger() -> None:
    guide = guide_of(TRIGGERED)
    for _ in range(2):
        for token_id in cut(b" a<call>{12}"):
            assert token_id in allowed(guide)
            guide.consume(token_id)
        assert allowed(guide) == ALL
    assert after(TRIGGERED, b"<call>{12}<call>{") == {TEXTS[i] for i in range(VOCAB_SIZE) if TEXTS[i] in b"0123456"} - {
        b""
    }


def test_a_trigger_whose_tokens_the_grammar_refuses_leaves_the_answer_free() -> None:
    constraint = constrained(r'start: "<call>" "{"', triggers=(Marker(text=b"call"),))
    assert allowed(guide_of(constraint, cut(b"a") + cut(b"</call"))) == ALL
    assert after(constraint, b"a<call>") == {b"{"}


def test_a_trigger_by_its_token() -> None:
    constraint = constrained(f'start: <[{OPEN_ID}]> "ab"', triggers=(Marker(text=b"", token_id=OPEN_ID),))
    assert texts_allowed(guide_of(constraint, [*cut(b"a"), OPEN_ID])) == {b"ab"}


@pytest.mark.parametrize("counts", [True, False])
def test_triggers_in_the_reasoning(counts: bool) -> None:
    constraint = constrained(
        CALL, triggers=TRIGGERED.triggers, triggers_in_reasoning=counts, reasoning=reasoning(is_open=True, budget=9)
    )
    assert after(constraint, b"a<call>") == ({b"{"} if counts else {TEXTS[token] for token in ALL})
    assert after(constraint, b"a</think><call>") == {b"{"}
    # The text after the marker belongs to the answer.
    assert texts_allowed(guide_of(constraint, [*cut(b"</think>"), *cut(b"<call>")])) == {b"{"}


def test_the_first_text_of_the_answer_may_be_in_the_token_that_ends_the_reasoning() -> None:
    constraint = constrained(r'start: />?"/ "ab"', triggers=(Marker(text=b'"'),), reasoning=reasoning(is_open=True))
    assert texts_allowed(guide_of(constraint, [*cut(b"</think"), TEXTS.index(b'>"')])) == {b"ab"}


CONSTRAINTS = [
    constrained(TWO_LETTERS),
    constrained(r'start: / ?/ "{" pair ("," pair)* "}"' + '\npair: /"[a-f]{0,5}"/ ":" ("true" | /[0-6]+/)'),
    TRIGGERED,
    constrained(TWO_LETTERS, reasoning=reasoning()),
    constrained(r'start: "<" /[ab]{2}/', reasoning=reasoning(budget=3, closing_token_ids=tuple(cut(b"</think>\n")))),
    constrained(
        CALL,
        triggers=TRIGGERED.triggers,
        triggers_in_reasoning=True,
        reasoning=reasoning(is_open=True, budget=5, closing_token_ids=(CLOSE_ID,)),
    ),
]


@given(st.sampled_from(CONSTRAINTS), st.integers(0, 2**32))
def test_a_replay_allows_the_same_tokens_as_the_guide_that_was_there(constraint: Constraint, seed: int) -> None:
    chance, live, tokens = random.Random(seed), guide_of(constraint), list[int]()
    likely = cut(b'</think><call>{"a":12}')
    for place in range(24):
        choices = allowed(live)
        assert choices and choices == allowed(guide_of(constraint, tokens))
        wanted = likely[place % len(likely)]
        token_id = wanted if wanted in choices and chance.random() < 0.8 else chance.choice(sorted(choices))
        live.consume(token_id)
        tokens.append(token_id)


@given(st.sampled_from(["null|ink", "<ab|<tab", "<t{1,3}|think>"]), st.booleans(), st.integers(0, 2**32))
def test_whatever_the_model_chooses_its_answer_obeys_the_grammar(choices: str, by_token: bool, seed: int) -> None:
    opening = Marker(text=b"<think>", token_id=OPEN_ID if by_token else None)
    before = reasoning(open=opening, budget=4, closing_token_ids=CLOSING)
    chance, guide = random.Random(seed), guide_of(constrained(f"start: /\\n*({choices})/", reasoning=before))
    tokens = [-1]
    while tokens[-1] not in END_IDS:
        tokens.append(chance.choice(sorted(allowed(guide) - set(cut(b"\n")) or allowed(guide))))
        guide.consume(tokens[-1])
    text = spell(tokens[1:-1]).decode()
    assert re.fullmatch(rf"(\s*<think>.*</think>)?\n*({choices})", text, re.DOTALL), text


def panic() -> Any:
    raise PanicError("index out of bounds")


PanicError = type("PanicException", (BaseException,), {})


class Failing:
    """A matcher of llguidance of which one method panics."""

    def __init__(self, raw: Any, method: str) -> None:
        self._raw = raw
        self._method = method

    def __getattr__(self, name: str) -> Any:
        if name == "deep_copy":
            return lambda: Failing(self._raw.deep_copy(), self._method)
        return (lambda *_: panic()) if name == self._method else getattr(self._raw, name)


@pytest.mark.parametrize("method", ["consume_tokens", "unsafe_compute_mask_ptr", "is_stopped", "is_error"])
def test_a_panic_ends_the_sequence_and_is_logged_once(method: str, caplog: pytest.LogCaptureFixture) -> None:
    constraint = constrained(TWO_LETTERS)
    vocabulary, make = GRAMMARS.open(constraint)
    guide = Guide(constraint, vocabulary, lambda: Matcher(Failing(make().raw, method), "g"))  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        for token_id in cut(b"aa"):
            allowed(guide)
            guide.consume(token_id)
        assert allowed(guide) == set(END_IDS)
    assert ["index out of bounds" in str(record.__dict__["reason"]) for record in caplog.records] == [True]


@pytest.mark.parametrize("grammar", ["start: /[/", "start: nothing"])
def test_a_grammar_that_cannot_be_compiled_ends_the_sequence(grammar: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert allowed(guide_of(constrained(grammar))) == set(END_IDS)
    (record,) = caplog.records
    assert "\n" not in vars(record)["reason"] and len(vars(record)["reason"]) <= 200
    triggered = constrained(grammar, triggers=TRIGGERED.triggers)
    assert allowed(guide_of(triggered, cut(b"<call>"))) == ALL


def test_a_token_that_the_grammar_refuses_ends_the_sequence() -> None:
    assert after(constrained(TWO_LETTERS), b"e") == ENDS
