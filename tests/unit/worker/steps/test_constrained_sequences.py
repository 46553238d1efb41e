"""Tests of constrained sequences in the engine: their answers obey the grammar, alone, in a crowd and after a move."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.wire.constraint import Constraint, Marker, Reasoning
from tests.fakes.engine_driver import PROMPT, Driver, new_sequence
from tests.fakes.executors import EXECUTORS, Wrap
from tests.fakes.grammar_vocabulary import CLOSE_ID, END_IDS, END_OF_THINK, THINK, constrained, cut, spell
from worker.steps.step import NewSequence

OBJECT = r"""start: "{" pair ("," pair)* "}"
pair: "\"" /[abcde]{1,3}/ "\":" (/[0-6]{1,3}/ | "true" | "null")"""
CALLS = constrained(r'start: /.?<call>/ "{" /[0-6]{1,3}/ "}"', triggers=(Marker(text=b"<call>"),))
THOUGHTS = Reasoning(open=THINK, is_open=True, close=END_OF_THINK, budget=3, closing_token_ids=(CLOSE_ID,))
AFTER_REASONING = constrained(
    OBJECT,
    reasoning=THOUGHTS,
)
CONSTRAINTS = [constrained(OBJECT), constrained(r"start: /(ab|c){1,8}/"), CALLS, AFTER_REASONING]
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.9, "top_k": 9, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"logit_bias": {cut(b"}")[0]: 20.0}, "num_logprobs": 1},
]
ALL_EXECUTORS = pytest.mark.parametrize("wrap", EXECUTORS.values(), ids=EXECUTORS)


def answer(
    new: NewSequence, wrap: Wrap = EXECUTORS["depth 1"], *, most: int = 40, driver: Driver | None = None
) -> list[int]:
    """Return the tokens of a sequence until one ends it, or the first `most`."""
    driver = driver or Driver(END_IDS, num_pages=256, wrap=wrap)
    return driver.answer(new, most)


@given(st.integers(0, 1000), st.sampled_from(SAMPLING))
@settings(max_examples=30)
def test_an_answer_obeys_its_grammar(seed: int, sampling: dict[str, Any]) -> None:
    tokens = answer(new_sequence(constraint=CONSTRAINTS[1], **{"seed": seed} | sampling))
    text = spell(tokens[:-1])
    assert tokens[-1] in END_IDS and text and not text.replace(b"ab", b"").replace(b"c", b"")


def test_an_answer_after_reasoning_obeys_its_grammar() -> None:
    tokens = answer(new_sequence(constraint=AFTER_REASONING), most=200)
    thought, answered = spell(tokens[:-1]).split(b"</think>")
    assert tokens.index(CLOSE_ID) == 3 and thought
    assert tokens[-1] in END_IDS and answered.startswith(b'{"') and answered.endswith(b"}")


@pytest.mark.parametrize(
    "bans", [{"min_tokens": 30}, {"ignore_eos": True}, {"stop_token_ids": END_IDS, "min_tokens": 9}]
)
def test_bans_leave_a_token_after_a_complete_grammar(bans: dict[str, Any]) -> None:
    """A step fails for all sequences if one of them has no token left, so the grammar wins over bans."""
    tokens = answer(new_sequence(constraint=constrained('start: "ab"'), **bans), most=6)
    assert spell(tokens[:1]) == b"ab" and set(tokens[1:]) <= set(END_IDS) and len(tokens) > 1


@pytest.mark.parametrize("reasoning", [None, THOUGHTS, replace(THOUGHTS, is_open=False)])
def test_an_answer_whose_grammar_fails_does_not_end_by_itself(reasoning: Reasoning | None) -> None:
    driver = Driver(END_IDS, num_pages=256)
    failing = constrained("start: nothing", reasoning=reasoning)
    tokens = driver.answer(new_sequence(constraint=failing, logit_bias={END_IDS[0]: 100.0}), 40)
    assert tokens[-1] in END_IDS
    assert driver.sampled[-1].stopped and driver.sampled[-1].grammar_failed
    assert not any(sampled.grammar_failed for sampled in driver.sampled[:-1])


def test_a_complete_answer_has_no_failed_grammar() -> None:
    driver = Driver(END_IDS, num_pages=256)
    driver.answer(new_sequence(constraint=constrained('start: "ab"')), 40)
    assert driver.sampled[-1].stopped and not driver.sampled[-1].grammar_failed


def test_a_ban_counts_while_the_grammar_leaves_another_token() -> None:
    tokens = answer(new_sequence(constraint=constrained("start: /c*/"), min_tokens=5, logit_bias={END_IDS[0]: 100.0}))
    assert spell(tokens[:5]) == b"ccccc"


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@ALL_EXECUTORS
def test_a_moved_sequence_continues_with_the_same_tokens(
    wrap: Wrap, constraint: Constraint, sampling: dict[str, Any]
) -> None:
    whole = answer(new_sequence(constraint=constraint, **sampling))
    for num_before in (1, 2, 7):
        before = whole[:num_before]
        resumed = new_sequence(token_ids=(*PROMPT, *before), attempt=2, constraint=constraint, **sampling)
        if len(before) < len(whole):
            assert before + answer(resumed, wrap, most=40 - num_before) == whole


KEYS = st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=3, unique=True)


@st.composite
def grammars(draw: st.DrawFn) -> Constraint:
    """Generate grammars like those of schemas: keys are forced, values are free, listed or forced."""
    pairs = []
    for key in draw(KEYS):
        value = draw(st.sampled_from(['("true" | "null" | "abc")', "/[0-6]{1,3}/", '"cab"', "/[a-d]{0,2}/"]))
        pairs.append(rf'"\"{key}\":" {value}')
    return constrained('start: "{" ' + ' "," '.join(pairs) + ' "}"', **draw(REASONING))


REASONING = st.sampled_from(
    [
        {},
        {"reasoning": Reasoning(open=THINK, is_open=False, close=END_OF_THINK)},
        {"reasoning": THOUGHTS},
        {"reasoning": replace(THOUGHTS, closing_token_ids=tuple(cut(b"ab</think>ab")))},
    ]
)


@given(grammars(), st.sampled_from([*SAMPLING, {"min_tokens": 20, "stop_token_ids": cut(b"c")}]), st.integers(0, 99))
def test_forced_tokens_in_one_step_are_those_of_single_steps(
    constraint: Constraint, sampling: dict[str, Any], seed: int
) -> None:
    new = new_sequence(constraint=constraint, **{"seed": seed} | sampling)
    single, several = Driver(END_IDS, 256, max_new_tokens=1), Driver(END_IDS, 256)
    assert several.answer(new, 40) == single.answer(new, 40)
    for name in ("token_ids", "logprobs"):
        parts = [
            [each for sampled in driver.sampled for each in getattr(sampled, name)] for driver in (single, several)
        ]
        assert parts[0][:40] == parts[1][:40]
    assert {len(sampled.token_ids) for sampled in single.sampled} == {1}


def test_forced_tokens_save_steps() -> None:
    constraint = constrained(r'start: "{\"abcdefabcdef\":" /[0-6]/ "}"')
    driver = Driver(END_IDS, 256)
    tokens = driver.answer(new_sequence(constraint=constraint), 40)
    # The first token comes with the prompt, then the key and the digit come in one step, then the brace and an end token.
    assert [len(sampled.token_ids) for sampled in driver.sampled] == [1, len(tokens) - 3, 2]
    assert driver.model.num_tokens_of_steps == [10, len(tokens) - 3, 2]


def test_no_more_tokens_than_the_plan_allows() -> None:
    constraint = constrained(r'start: "{\"abcdefabcdefabcdefabcdef\":" /[0-6]/ "}"')
    driver = Driver(END_IDS, 256, max_new_tokens=5)
    driver.answer(new_sequence(constraint=constraint), 40)
    assert max(len(sampled.token_ids) for sampled in driver.sampled) == 5


@ALL_EXECUTORS
def test_sequences_get_the_same_tokens_alone_and_in_a_crowd(wrap: Wrap) -> None:
    news = [
        new_sequence(number, (number, 3, 1), num_prompt=3, constraint=constraint, **sampling)
        for number, (constraint, sampling) in enumerate(
            ((constraint, sampling) for constraint in (*CONSTRAINTS, None) for sampling in SAMPLING), start=1
        )
    ]
    crowd = Driver(END_IDS, num_pages=512, wrap=wrap).answers(news, 20)
    assert crowd == [answer(new, most=20) for new in news]
