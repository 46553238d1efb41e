"""The types of request fields that several APIs have: their ranges, and one error message for each union."""

from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from pagoda.durations import parse_duration
from pagoda.wire.sampling import (
    MAX_ALLOWED_TOKEN_IDS,
    MAX_LOGIT_BIAS,
    MAX_LOGPROB_TOKEN_IDS,
    MAX_LOGPROBS,
    MAX_STOP_TOKEN_IDS,
)


def described(sentence: str) -> WrapValidator:
    """Replace pydantic's errors about each branch of a union by one: "must be …"."""

    def validate(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise ValueError(f"must be {sentence}") from None

    return WrapValidator(validate)


def _text_or_list(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a string"


def _check_text_or_list(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise ValueError("must be a string or a list")
    return value


List = TypeVar("List")

# Errors of a union name only the branch that its discriminator chooses. Tags with a space do not appear in the path of an error.
TextOrList = Annotated[
    Annotated[str, Tag("a string")] | Annotated[List, Tag("a list")],
    Discriminator(_text_or_list),
    BeforeValidator(_check_text_or_list),
]
"""A text, or a list of the type in brackets."""


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _whole_items(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
    """Validate a list of integers without a Python call for each item, unless it has floats such as `16.0`."""
    try:
        return inner(value)
    except ValidationError:
        if not isinstance(value, list) or not any(type(each) is float for each in value):
            raise
        return inner([_whole(each) for each in value])


Integer = Annotated[int, BeforeValidator(_whole)]
"""An integer, which JSON may also write as `16.0`."""
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
"""Total probability of the tokens to choose from. 0 leaves the single best token, at any temperature."""
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=100)]
NumLogprobs = Annotated[Integer, Field(ge=0, le=MAX_LOGPROBS)]
# The highest number that both a protobuf uint32 and a C int can hold.
Count = Annotated[Integer, Field(ge=0, le=2**31 - 1)]
PositiveCount = Annotated[Integer, Field(ge=1, le=2**31 - 1)]
Limit = Annotated[Integer, Field(ge=-1, le=2**31 - 1)]
"""A number of tokens; -1 is no limit."""
TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]
whole_items = WrapValidator(_whole_items)
"""The validator of lists of integers, which JSON may also write as `16.0`."""
ModelName = Annotated[str, Field(max_length=4096)]
"""The name of a model, or its path if the server was started with it."""
MAX_MESSAGES = 10_000
Seed = Annotated[Integer, Field(ge=-(2**63), le=2**64 - 1), described("an integer of at most 64 bits")]

RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/+=@-]{1,128}$")]
StopTokenIds = Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True), whole_items]
AllowedTokenIds = Annotated[
    list[TokenId], Field(min_length=1, max_length=MAX_ALLOWED_TOKEN_IDS, fail_fast=True), whole_items
]
LogprobTokenIds = Annotated[list[TokenId], Field(max_length=MAX_LOGPROB_TOKEN_IDS, fail_fast=True), whole_items]
BadWords = Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=128, fail_fast=True)]

MAX_STOPS = 64
_StopString = Annotated[str, Field(min_length=1, max_length=1024)]
Stop = Annotated[
    _StopString | Annotated[list[_StopString], Field(max_length=MAX_STOPS, fail_fast=True)],
    described(f"a string or a list of at most {MAX_STOPS} strings, none of them empty or longer than 1024 characters"),
]


def _check_duration(value: float | str) -> float | str:
    parse_duration(value)
    return value


KeepAlive = Annotated[
    float | str, AfterValidator(_check_duration), described('a number of seconds or a duration such as "5m"')
]


def _check_length(bias: Any) -> Any:
    if isinstance(bias, dict) and len(bias) > MAX_LOGIT_BIAS:
        raise ValueError(f"may name at most {MAX_LOGIT_BIAS} tokens, not {len(bias)}")
    return bias


def _check_logit_bias(bias: dict[str, float]) -> dict[str, float]:
    for token_id, value in bias.items():
        # isdecimal alone would accept digits of other scripts.
        if not (token_id.isascii() and token_id.isdecimal() and len(token_id) <= 10):
            raise ValueError(f"keys must be token ids, not {token_id[:40]!r}")
        if not -100 <= value <= 100:
            raise ValueError(f"values must be between -100 and 100, not {value:g}")
    return bias


LogitBias = Annotated[dict[str, float], BeforeValidator(_check_length), AfterValidator(_check_logit_bias)]


def keep_alive_seconds(keep_alive: float | str | None) -> float | None:
    return None if keep_alive is None else parse_duration(keep_alive)


def nucleus(temperature: float | None, top_p: float | None) -> dict[str, Any]:
    """Return the two parameters. A nucleus of 0 holds the single best token, which is the one that temperature 0 chooses."""
    return {"temperature": 0.0} if top_p == 0 else {"temperature": temperature, "top_p": top_p}


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def seed_bits(seed: int) -> int:
    """Return the 64 bits of a seed that may be negative."""
    return seed % 2**64
