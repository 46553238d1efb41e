"""The fields that chat completions and completions share: sampling, limits, and the contents of the reply."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gateway.chat.sampling_fields import SamplingFields
from gateway.http.fields import Integer, Limit, NumLogprobs, RepetitionPenalty, RequestId
from gateway.http.schema import FieldError, Schema
from gateway.openai.known_fields import HINTS
from gateway.openai.text_rule_schema import TextRuleFields


class StreamOptions(Schema):
    """The usage that a stream reports."""

    hints = frozenset({"include_obfuscation"})

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationRequest(SamplingFields, TextRuleFields):
    """A request for text."""

    hints: ClassVar[frozenset[str]] = HINTS

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Integer, Field(ge=1, le=128)] | None = None
    repeat_penalty: RepetitionPenalty | None = None
    """llama.cpp's field: like repetition_penalty, but over the last repeat_last_n tokens."""
    repeat_last_n: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    """Number of latest tokens that repeat_penalty considers: -1 for all, 0 for none. Default: the model's own, else 64."""
    max_tokens: Limit | None = None
    """Maximum number of tokens of the answer; -1 for no limit."""
    n_predict: Limit | None = None
    """llama.cpp's name for max_tokens, used if max_tokens is absent."""
    truncate_prompt_tokens: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    """Number of tokens of the prompt that are used; -1 for as many as leave room for the answer."""
    truncation_side: Literal["left", "right"] | None = None
    """Side on which the prompt is cut. "right" needs a number of tokens."""
    request_id: RequestId | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    prompt_logprobs: NumLogprobs | None = None
    """Number of alternatives in the log-probabilities of the prompt's tokens; absent for none. Not for streams."""

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
