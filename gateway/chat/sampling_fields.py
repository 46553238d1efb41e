"""The fields of sampling and limits that OpenAI's endpoints and Responses share, with vLLM's additions, and what they ask for."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from gateway.answers.text_request import SamplingChoice, TextRequest
from gateway.http.fields import (
    AllowedTokenIds,
    BadWords,
    Count,
    Integer,
    KeepAlive,
    LogitBias,
    LogprobTokenIds,
    MinP,
    ModelName,
    Penalty,
    RepetitionPenalty,
    Seed,
    Stop,
    StopTokenIds,
    Temperature,
    TopP,
    keep_alive_seconds,
    seed_bits,
    stop_strings,
)
from gateway.http.schema import Schema
from gateway.models.served_model import ServedModel
from gateway.prompts.bad_words import bad_word_tokens
from pagoda.wire.sampling import SamplingParams


class SamplingFields(Schema):
    """The fields of sampling and limits."""

    model: ModelName | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: LogitBias | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    stop_token_ids: StopTokenIds | None = None
    allowed_token_ids: AllowedTokenIds | None = None
    """The only tokens that may be generated. The answer ends by itself only if an end token is among them."""
    bad_words: BadWords | None = None
    """Words that are not generated, neither at the beginning of a text nor after a space."""
    logprob_token_ids: LogprobTokenIds | None = None
    """Tokens whose log-probabilities are reported in place of the most probable ones'. Needs `logprobs`, except in Responses."""
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    priority: Annotated[Integer, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    """Requests with a lower number run first."""
    keep_alive: KeepAlive | None = None
    """Ollama's field: time that the model stays in memory after the request."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=128)] | None = None


def asked_parameters(body: SamplingFields, max_tokens: int | None) -> dict[str, Any]:
    """Return the sampling parameters of the body, under the names that all sources use. None leaves one open."""
    return {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "repeat_penalty": body.repetition_penalty,
        # Every number is a valid seed, also -1.
        "seed": None if body.seed is None else seed_bits(body.seed),
        "stop": None if body.stop is None else stop_strings(body.stop),
        "num_predict": max_tokens,
    }


def token_params(body: SamplingFields, model: ServedModel) -> SamplingParams:
    """Return the parameters that only a request can set. Raises InvalidRequestError for a token that the model does not have."""
    stop_token_ids = tuple(body.stop_token_ids or ())
    allowed_token_ids = tuple(sorted(set(body.allowed_token_ids or ())))
    logprob_token_ids = tuple(dict.fromkeys(body.logprob_token_ids or ()))
    bias = {int(token_id): value for token_id, value in (body.logit_bias or {}).items()}
    model.check_token_ids(stop_token_ids, "stop_token_ids")
    model.check_token_ids(allowed_token_ids, "allowed_token_ids")
    model.check_token_ids(logprob_token_ids, "logprob_token_ids")
    model.check_token_ids(bias, "logit_bias")
    return SamplingParams(
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        logit_bias=MappingProxyType(bias),
        stop_token_ids=stop_token_ids,
        allowed_token_ids=allowed_token_ids,
        bad_words=bad_word_tokens(model.tokenizer, body.bad_words or ()),
        logprob_token_ids=logprob_token_ids,
    )


def sampled_request(
    body: SamplingFields, token_ids: Sequence[int], choice: SamplingChoice, prompt_field: str
) -> TextRequest:
    """Return the request for one answer to a prompt."""
    return TextRequest(
        prompt_token_ids=tuple(token_ids),
        prompt_field=prompt_field,
        sampling=choice,
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        cache_salt=body.cache_salt or "",
        priority=body.priority,
        keep_alive_s=keep_alive_seconds(body.keep_alive),
    )
