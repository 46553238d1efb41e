"""Messages about values that pydantic rejected."""

from typing import Literal

import pytest
from pydantic import BaseModel, ByteSize, Field, ValidationError

from pagoda.validation import describe_problem, suggest


class Options(BaseModel):
    """Options of a command."""

    port: int = Field(1, ge=1, le=65535)
    ratio: float = Field(0.5, gt=0, lt=1)
    size: ByteSize = ByteSize(0)
    mode: Literal["fast", "exact"] = "fast"
    digest: str = Field("00", pattern="^[0-9a-f]{2}$")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("port", "abc", "must be an integer (got 'abc')"),
        ("port", "0", "must be at least 1 (got '0')"),
        ("port", "99999", "must be at most 65535 (got '99999')"),
        ("ratio", "half", "must be a number (got 'half')"),
        ("ratio", "0", "must be above 0 (got '0')"),
        ("ratio", "1", "must be below 1 (got '1')"),
        ("size", "lots", "must be a size such as 512MiB (got 'lots')"),
        ("digest", "zz", "must match ^[0-9a-f]{2}$ (got 'zz')"),
        ("mode", "slow", "must be 'fast' or 'exact' (got 'slow')"),
    ],
)
def test_a_message_says_what_is_allowed_and_what_was_given(field: str, value: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Options.model_validate({field: value})
    problem = caught.value.errors()[0]
    assert describe_problem(problem) == message
    assert describe_problem(problem, is_secret=True) == message.partition(" (got")[0]


def test_a_similar_name_is_suggested_else_all_are_listed() -> None:
    known = {"PAGODA_WORKER_DEVICE", "PAGODA_WORKER_KV_MEMORY"}
    assert suggest("PAGODA_WORKER_KV_MEMRY", known) == "; did you mean PAGODA_WORKER_KV_MEMORY?"
    assert suggest("PAGODA_COLOUR", known) == " (known: PAGODA_WORKER_DEVICE, PAGODA_WORKER_KV_MEMORY)"
