"""From Ollama's request bodies to what the generator takes. Pure functions; pydantic ends here."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from gateway.errors import InvalidRequestError
from gateway.fields import nucleus, seed_bits, stop_strings
from gateway.ollama.schemas import ChatMessage, ChatRequest, GenerateRequest, Options
from gateway.text_request import TextRequest
from pagoda.sampling import SamplingParams

Number = TypeVar("Number", int, float)

# Ollama's own defaults, which differ from OpenAI's.
DEFAULT_TEMPERATURE = 0.8
DEFAULT_TOP_K = 40
DEFAULT_TOP_P = 0.9
DEFAULT_REPEAT_LAST_N = 64


def chat_messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def check_context(token_ids: Sequence[int], vocab_size: int) -> None:
    wrong = next((token_id for token_id in token_ids if token_id >= vocab_size), None)
    if wrong is not None:
        raise InvalidRequestError(
            f"context: token id {wrong} is out of range; the model's vocabulary has {vocab_size} tokens",
            param="context",
        )


def text_request(
    body: GenerateRequest | ChatRequest, prompt: Sequence[int], prompt_field: str, parameters: Mapping[str, Any]
) -> TextRequest:
    """`parameters` are the model's own, for what the request leaves open."""
    asked = {} if body.options is None else body.options.model_dump(exclude_none=True)
    options = Options.parse({**parameters, **asked})
    return TextRequest(
        prompt_token_ids=tuple(prompt),
        sampling=_sampling(options, (body.top_logprobs or 0) if body.logprobs else None),
        seed=None if options.seed in (None, -1) else seed_bits(options.seed or 0),
        stops=stop_strings(options.stop),
        max_total_tokens=options.num_ctx,
        keep_alive_s=body.keep_alive_s,
        prompt_field=prompt_field,
    )


def _sampling(options: Options, num_logprobs: int | None) -> SamplingParams:
    if options.num_predict == 0:
        raise InvalidRequestError(
            "options.num_predict: must be at least 1, or -1 for no limit (got 0)", param="options.num_predict"
        )
    window = _or(options.repeat_last_n, DEFAULT_REPEAT_LAST_N)
    params = SamplingParams(
        **nucleus(_or(options.temperature, DEFAULT_TEMPERATURE), _or(options.top_p, DEFAULT_TOP_P)),
        top_k=max(0, _or(options.top_k, DEFAULT_TOP_K)),
        min_p=_or(options.min_p, 0.0),
        # A window of 0 switches the penalty off; -1 is the whole context, which SamplingParams calls 0.
        repetition_penalty=1.0 if window == 0 else _or(options.repeat_penalty, 1.0),
        repetition_window=max(0, window),
        presence_penalty=_or(options.presence_penalty, 0.0),
        frequency_penalty=_or(options.frequency_penalty, 0.0),
        max_tokens=options.num_predict if options.num_predict is not None and options.num_predict > 0 else None,
        num_logprobs=num_logprobs,
    )
    if (problem := params.problem()) is not None:
        raise InvalidRequestError(problem)
    return params


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value
