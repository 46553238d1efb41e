"""The fields that chat completions and completions share: sampling, limits, and the contents of the reply."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gateway.http.fields import (
    AllowedTokenIds,
    BadWords,
    Count,
    Integer,
    KeepAlive,
    Limit,
    LogitBias,
    LogprobTokenIds,
    MinP,
    ModelName,
    NumLogprobs,
    Penalty,
    RepetitionPenalty,
    RequestId,
    Seed,
    Stop,
    StopTokenIds,
    Temperature,
    TopP,
)
from gateway.http.schema import FieldError, Schema
from gateway.openai.known_fields import HINTS
from gateway.openai.text_rule_schema import TextRuleFields


class StreamOptions(Schema):
    """The usage that a stream reports."""

    hints = frozenset({"include_obfuscation"})

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationRequest(TextRuleFields):
    """A request for text."""

    hints: ClassVar[frozenset[str]] = HINTS

    model: ModelName | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Integer, Field(ge=1, le=128)] | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = None
    """llama.cpp's field: like repetition_penalty, but over the last repeat_last_n tokens."""
    repeat_last_n: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    """Number of latest tokens that repeat_penalty considers: -1 for all, 0 for none. Default: the model's own, else 64."""
    logit_bias: LogitBias | None = None
    max_tokens: Limit | None = None
    """Maximum number of tokens of the answer; -1 for no limit."""
    n_predict: Limit | None = None
    """llama.cpp's name for max_tokens, used if max_tokens is absent."""
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    stop_token_ids: StopTokenIds | None = None
    allowed_token_ids: AllowedTokenIds | None = None
    """The only tokens that may be generated. The answer ends by itself only if an end token is among them."""
    bad_words: BadWords | None = None
    """Words that are not generated, neither at the beginning of a text nor after a space."""
    logprob_token_ids: LogprobTokenIds | None = None
    """Tokens whose log-probabilities are reported in place of the most probable ones'. Needs `logprobs`."""
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    """Number of tokens of the prompt that are used; -1 for as many as leave room for the answer."""
    truncation_side: Literal["left", "right"] | None = None
    """Side on which the prompt is cut. "right" needs a number of tokens."""
    priority: Annotated[Integer, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    """Requests with a lower number run first."""
    request_id: RequestId | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    prompt_logprobs: NumLogprobs | None = None
    """Number of alternatives in the log-probabilities of the prompt's tokens; absent for none. Not for streams."""
    keep_alive: KeepAlive | None = None
    """Ollama's field: time that the model stays in memory after the request."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _one_penalty_for_repetition(self) -> Self:
        if self.repeat_penalty is not None and self.repetition_penalty is not None:
            raise FieldError("repeat_penalty", "not possible together with repetition_penalty; send only one of them")
        return self

    @model_validator(mode="after")
    def _prompt_logprobs_come_whole(self) -> Self:
        if self.prompt_logprobs is not None and self.stream:
            raise FieldError("prompt_logprobs", "not available when stream is true")
        return self

    @model_validator(mode="after")
    def _truncation_keeps_something(self) -> Self:
        if self.truncate_prompt_tokens == 0:
            raise FieldError("truncate_prompt_tokens", "must be at least 1, or -1 for as many as fit")
        if self.truncation_side == "right" and self.truncate_prompt_tokens == -1:
            raise FieldError("truncation_side", 'must be "left" when truncate_prompt_tokens is -1')
        return self

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise FieldError("stream_options", "only allowed when stream is true")
        return self

    @property
    def num_choices(self) -> int:
        return self.n or 1
