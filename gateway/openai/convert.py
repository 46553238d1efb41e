"""From OpenAI's request bodies to what the generator takes. Pure functions; pydantic ends here."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gateway.answers.sampling_choice import SamplingChoice, choose_sampling
from gateway.answers.text_request import TextRequest
from gateway.errors import InvalidRequestError
from gateway.http.fields import keep_alive_seconds, seed_bits, stop_strings
from gateway.models.served_model import ChatEnding
from gateway.openai.replies import ReplyForm
from gateway.openai.schemas import ChatMessage, ChatRequest, CompletionRequest, StreamOptions, TokenizeChatRequest
from pagoda.models.sampling_defaults import OPENAI_CHAT, OPENAI_COMPLETIONS, ModelDefaults
from pagoda.text.prompt_bound import Keep
from pagoda.wire.sampling import SamplingParams

LLAMA_CPP_REPEAT_LAST_N = 64


def chat_messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """As chat templates know them: `developer` is OpenAI's newer word for `system`, and parts are joined by line breaks."""
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": _text(message)}
        for message in messages
    ]


def chat_ending(body: ChatRequest | TokenizeChatRequest) -> ChatEnding:
    if body.continue_final_message:
        return ChatEnding.CONTINUED
    return ChatEnding.BEGUN if body.add_generation_prompt in (None, True) else ChatEnding.AS_IS


def kept(body: ChatRequest | CompletionRequest) -> Keep:
    """Which tokens of a prompt that is too long the client wants."""
    if body.truncate_prompt_tokens is None:
        return Keep.ALL
    return Keep.FIRST if body.truncation_side == "right" else Keep.LAST


def chat_text_request(
    body: ChatRequest, prompt: Sequence[int], vocab_size: int, defaults: ModelDefaults
) -> TextRequest:
    max_tokens = body.max_completion_tokens or body.max_tokens or body.n_predict
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    request_only = _request_only(body, num_logprobs, body.prompt_logprobs, vocab_size)
    choice = choose_sampling(_asked(body, max_tokens, defaults), defaults, OPENAI_CHAT, request_only)
    return _text_request(body, prompt, choice, "messages")


def completion_text_request(
    body: CompletionRequest, prompt: Sequence[int], vocab_size: int, defaults: ModelDefaults
) -> TextRequest:
    # Something is always generated: where the answer is the prompt alone, the reply leaves that one token out.
    max_tokens = body.n_predict if body.max_tokens is None else body.max_tokens or 1
    echoed = [body.logprobs] if body.echo else []
    wanted = [number for number in (body.prompt_logprobs, *echoed) if number is not None]
    request_only = _request_only(body, body.logprobs, max(wanted, default=None), vocab_size)
    choice = choose_sampling(_asked(body, max_tokens, defaults), defaults, OPENAI_COMPLETIONS, request_only)
    return _text_request(body, prompt, choice, "prompt")


def reply_form(body: ChatRequest | CompletionRequest, model_name: str, *, logprobs: bool) -> ReplyForm:
    options = body.stream_options or StreamOptions()
    return ReplyForm(
        model=body.model or model_name,
        request_id=body.request_id,
        logprobs=logprobs,
        num_prompt_logprobs=body.prompt_logprobs,
        token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
        usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
    )


def check_token_ids(token_ids: Sequence[int], vocab_size: int, field: str) -> None:
    wrong = max(token_ids, default=0)
    if wrong >= vocab_size:
        raise InvalidRequestError(
            f"{field}: token id {wrong} is out of range; the model's vocabulary has {vocab_size} tokens", param=field
        )


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content or ())


def _text_request(
    body: ChatRequest | CompletionRequest, prompt: Sequence[int], choice: SamplingChoice, prompt_field: str
) -> TextRequest:
    return TextRequest(
        prompt_token_ids=tuple(_cut(prompt, body)),
        sampling=choice.params,
        seed=choice.seed,
        stops=choice.stops,
        max_total_tokens=choice.max_total_tokens,
        chosen=choice.parameters,
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        num_samples=body.num_choices,
        cut_to_fit=body.truncate_prompt_tokens == -1,
        cache_salt=body.cache_salt or "",
        priority=body.priority,
        keep_alive_s=keep_alive_seconds(body.keep_alive),
        prompt_field=prompt_field,
    )


def _cut(prompt: Sequence[int], body: ChatRequest | CompletionRequest) -> Sequence[int]:
    limit = body.truncate_prompt_tokens
    if limit is None or limit == -1:
        return prompt
    return prompt[:limit] if body.truncation_side == "right" else prompt[-limit:]


def _asked(body: ChatRequest | CompletionRequest, max_tokens: int | None, defaults: ModelDefaults) -> dict[str, Any]:
    """Under the names that all sources have in common; None is left open."""
    return {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        **_repetition(body, defaults),
        # Any number of a client's is a seed here, -1 too.
        "seed": None if body.seed is None else seed_bits(body.seed),
        "stop": None if body.stop is None else stop_strings(body.stop),
        "num_predict": max_tokens,
    }


def _repetition(body: ChatRequest | CompletionRequest, defaults: ModelDefaults) -> dict[str, Any]:
    """vLLM's penalty is over all tokens, llama.cpp's over the latest, unless the model or the request says otherwise."""
    window = body.repeat_last_n
    if window is None and body.repeat_penalty is not None and "repeat_last_n" not in defaults.parameters:
        window = LLAMA_CPP_REPEAT_LAST_N
    penalty = body.repetition_penalty if body.repeat_penalty is None else body.repeat_penalty
    return {"repeat_penalty": penalty, "repeat_last_n": window}


def _request_only(
    body: ChatRequest | CompletionRequest, num_logprobs: int | None, num_prompt_logprobs: int | None, vocab_size: int
) -> SamplingParams:
    stop_token_ids = tuple(body.stop_token_ids or ())
    check_token_ids(stop_token_ids, vocab_size, "stop_token_ids")
    return SamplingParams(
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        logit_bias=_logit_bias(body.logit_bias or {}, vocab_size),
        stop_token_ids=stop_token_ids,
        num_logprobs=num_logprobs,
        num_prompt_logprobs=num_prompt_logprobs,
    )


def _logit_bias(bias: Mapping[str, float], vocab_size: int) -> Mapping[int, float]:
    by_id = {int(token_id): value for token_id, value in bias.items()}
    check_token_ids(tuple(by_id), vocab_size, "logit_bias")
    return MappingProxyType(by_id)
