"""The types of fields that both dialects have: their ranges, and sentences for what a union allows."""

from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from pagoda.sampling import MAX_LOGPROBS


def described(sentence: str) -> WrapValidator:
    """One sentence in place of pydantic's complaint about each branch of a union."""

    def validate(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise ValueError(f"must be {sentence}") from None

    return WrapValidator(validate)


Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=100)]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
# Both ends of what a protobuf uint32 and a C int can say.
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
PositiveCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]

MAX_STOPS = 4
_StopString = Annotated[str, Field(min_length=1, max_length=1024)]
Stop = Annotated[
    _StopString | Annotated[list[_StopString], Field(max_length=MAX_STOPS)],
    described(f"a string or a list of at most {MAX_STOPS} strings, none of them empty or longer than 1024 characters"),
]


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def seed_bits(seed: int) -> int:
    """The 64 bits of a seed that may be negative."""
    return seed % 2**64
