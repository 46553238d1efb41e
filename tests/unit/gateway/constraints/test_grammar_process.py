"""Tests of the process that checks grammars, called in this process: panics, and vocabularies that come and go."""

import signal
from typing import Any

import orjson
import pytest

from gateway.confined.serve import PoisonedError
from gateway.constraints import grammar_process
from gateway.constraints.compiler import _as_json
from pagoda.text.token_table import TokenTable
from tests.unit.gateway.constraints.matching import tiny_tokenizer


class PanicException(BaseException):
    """A panic of Rust code reaches Python as such an error, which is no Exception."""


@pytest.fixture(autouse=True)
def _no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "setitimer", lambda *_: None)
    monkeypatch.setattr(grammar_process, "_vocabularies", type(grammar_process._vocabularies)())


def ask(grammar: str, vocabulary: str = "a", *, with_table: bool = True) -> tuple[str, bytes]:
    table = _as_json(TokenTable.of_tokenizer(tiny_tokenizer())) if with_table else None
    request = orjson.dumps({"vocabulary": vocabulary, "grammar": grammar, "table": table})
    return grammar_process._answer(request, 1.0)


def test_a_panic_is_a_refusal_and_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(grammar_process, "_problem", panic)
    with pytest.raises(PoisonedError) as raised:
        ask('start: "a"')
    assert raised.value.outcome == "refused" and b"PanicException" in raised.value.content


def test_a_process_without_memory_is_killed_and_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(grammar_process, "_problem", fail)
    with pytest.raises(MemoryError):
        ask('start: "a"')


def test_a_vocabulary_is_asked_for_once() -> None:
    assert ask('start: "a"', with_table=False) == ("no_vocabulary", b"")
    assert ask('start: "a"') == ("valid", b"")
    assert ask('start: "b"', with_table=False) == ("valid", b"")
    for name in "bcd":
        ask('start: "a"', name)
    assert ask('start: "a"', with_table=False) == ("no_vocabulary", b""), "three others are kept"
    assert ask('start: "a"', "d", with_table=False) == ("valid", b"")


def test_a_vocabulary_survives_the_way_to_the_process() -> None:
    sent = TokenTable.of_tokenizer(tiny_tokenizer())
    received = orjson.loads(orjson.dumps(_as_json(sent)))
    tokens = tuple(token.encode("latin-1") for token in received.pop("tokens"))
    rest: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in received.items()
    }
    assert TokenTable(tokens=tokens, **rest).digest() == sent.digest()


def test_limits_that_are_reached_behind_the_first_token_are_found() -> None:
    def objects(number: int) -> bytes:
        schema = {"type": "object", "properties": {str(index): {} for index in range(number)}}
        return ask(f"start: %json {orjson.dumps(schema).decode()}")[1]

    assert objects(1500) == b""
    assert b"max is 20000" in objects(6000)
