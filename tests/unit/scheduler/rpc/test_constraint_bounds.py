"""Tests of the bounds of a client's constraint: each error names the field, and says what is allowed."""

import hashlib

import pytest

from pagoda.wire.constraint import (
    MAX_CLOSING_TOKENS,
    MAX_GRAMMAR_BYTES,
    MAX_MARKER_BYTES,
    MAX_TRIGGERS,
    Constraint,
    Marker,
    Reasoning,
)
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from protos.v1 import inference_pb2, types_pb2
from scheduler.errors import InvalidRequestError
from scheduler.queue.new_sequences import check_request, make_sequences
from scheduler.rpc.client_messages import check_bounds, request_from_proto
from tests.fakes.plan_worker import worker_info

CALL = Marker(text=b"<tool_call>", token_id=7)
NOTHING = Marker(text=b"")


def guided(grammar: str, **values: object) -> Constraint:
    return Constraint(grammar=grammar, digest=hashlib.sha256(grammar.encode()).digest(), **values)  # type: ignore[arg-type]


def reasoning(**values: object) -> Constraint:
    parts: dict[str, object] = {"open": CALL, "close": CALL, "is_open": False, "budget": 1, "closing_token_ids": (1,)}
    return Constraint(reasoning=Reasoning(**parts | values))  # type: ignore[arg-type]


def message(constraint: Constraint, num_samples: int = 1) -> inference_pb2.GenerateRequest:
    sampling = SamplingParams(temperature=0.0, constraint=constraint)
    request = InferenceRequest(
        request_id="r", model="", prompt_token_ids=[1, 2], sampling=sampling, num_samples=num_samples
    )
    return request.to_proto()


LONG = "x" * MAX_GRAMMAR_BYTES
ALLOWED = {
    "a grammar": guided("start: /.*/"),
    "the longest": guided(LONG, triggers=(CALL,) * MAX_TRIGGERS),
    "reasoning": reasoning(),
    "reasoning that is open": reasoning(open=NOTHING, is_open=True),
    "reasoning without a limit": reasoning(budget=None, closing_token_ids=()),
    "a control token": guided("a", triggers=(Marker(text=b"", token_id=0),)),
}
REFUSED = {
    "a grammar of one byte too many": (guided(LONG + "x"), f"grammar may have at most {MAX_GRAMMAR_BYTES} bytes"),
    "bytes count, not characters": (guided(LONG[:-1] + "é"), f"grammar may have at most {MAX_GRAMMAR_BYTES} bytes"),
    "the digest of another grammar": (Constraint(grammar="a", digest=guided("b").digest), "digest must be the sha256"),
    "no digest": (Constraint(grammar="a"), "digest must be .* (got none)"),
    "a digest of nothing": (Constraint(digest=b"a"), "digest must be"),
    "triggers of nothing": (Constraint(triggers=(CALL,)), "triggers begin the grammar"),
    "too many triggers": (guided("a", triggers=(CALL,) * (MAX_TRIGGERS + 1)), "triggers may have at most 128"),
    "an empty trigger": (guided("a", triggers=(CALL, NOTHING)), "triggers[1] must have a text or a token_id"),
    "a long trigger": (guided("a", triggers=(Marker(text=bytes(MAX_MARKER_BYTES + 1)),)), "triggers[0].text may have"),
    "nothing that begins": (reasoning(open=NOTHING), "reasoning.open must have"),
    "a long begin": (reasoning(open=Marker(text=bytes(300)), is_open=True), "reasoning.open.text may have"),
    "nothing that ends": (reasoning(close=NOTHING), "reasoning.close must have"),
    "a long end": (
        reasoning(closing_token_ids=(1,) * (MAX_CLOSING_TOKENS + 1)),
        "reasoning.closing_token_ids may have",
    ),
    "a budget without an end": (reasoning(closing_token_ids=()), "reasoning.closing_token_ids must have at least one"),
}


@pytest.mark.parametrize("constraint", ALLOWED.values(), ids=ALLOWED)
def test_a_constraint_within_its_bounds_is_accepted(constraint: Constraint) -> None:
    asked = message(constraint)
    check_bounds(asked)
    assert request_from_proto(asked).sampling.constraint == constraint


@pytest.mark.parametrize(("constraint", "error"), REFUSED.values(), ids=REFUSED)
def test_a_constraint_out_of_bounds_is_refused(constraint: Constraint, error: str) -> None:
    start, _, end = f"sampling.constraint.{error}".partition(".* ")
    with pytest.raises(InvalidRequestError) as refused:
        check_bounds(message(constraint))
    assert str(refused.value).startswith(start) and end in str(refused.value)


@pytest.mark.parametrize(
    "constraint",
    [
        guided("a", triggers=(CALL, Marker(text=b"", token_id=50))),
        reasoning(open=Marker(text=b"a", token_id=50)),
        reasoning(close=Marker(text=b"a", token_id=50)),
        reasoning(closing_token_ids=(1, 50)),
    ],
    ids=["trigger", "open", "close", "closing"],
)
def test_its_token_ids_are_in_the_vocabulary(constraint: Constraint) -> None:
    request = request_from_proto(message(constraint))
    with pytest.raises(InvalidRequestError, match="token id 50 is outside the vocabulary of 50 tokens"):
        check_request(request, worker_info().limits)
    check_request(request, worker_info(vocab_size=51).limits)


def test_samples_share_the_constraint_of_their_request() -> None:
    request = request_from_proto(message(guided("a"), num_samples=3))
    sequences = make_sequences(request, worker_info(), first_id=1, now_s=0.0)
    assert {id(sequence.sampling.constraint) for sequence in sequences} == {id(request.sampling.constraint)}


def test_an_empty_message_is_no_constraint() -> None:
    assert (
        request_from_proto(
            inference_pb2.GenerateRequest(prompt_token_ids=[1], sampling=types_pb2.SamplingParams(temperature=0))
        ).sampling.constraint
        is None
    )
