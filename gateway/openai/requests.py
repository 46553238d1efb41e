"""The conversion of request bodies of OpenAI's API and their prompts into requests for text."""

from dataclasses import replace
from typing import Any

from gateway.answers.text_request import SamplingChoice, TextRequest, choose_sampling
from gateway.chat.prepare import ChatPrompt
from gateway.chat.sampling_fields import asked_parameters, sampled_request, token_params
from gateway.models.served_model import ServedModel
from gateway.openai.prompts import EncodedPrompt
from gateway.openai.schemas import ChatRequest, CompletionRequest
from pagoda.models.sampling_defaults import OPENAI_CHAT, OPENAI_COMPLETIONS, ModelDefaults
from pagoda.wire.sampling import SamplingParams

LLAMA_CPP_REPEAT_LAST_N = 64
"""llama.cpp's default of `repeat_last_n`."""


def chat_text_request(body: ChatRequest, prompt: ChatPrompt, model: ServedModel) -> TextRequest:
    """Return the request for the answer to a conversation."""
    max_tokens = body.max_completion_tokens or body.max_tokens or body.n_predict
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    request_only = _request_only(body, model, num_logprobs, body.prompt_logprobs)
    choice = choose_sampling(_asked(body, max_tokens, model.defaults), model.defaults, OPENAI_CHAT, request_only)
    return _text_request(body, EncodedPrompt(token_ids=prompt.token_ids), choice, "messages")


def completion_text_request(body: CompletionRequest, prompt: EncodedPrompt, model: ServedModel) -> TextRequest:
    """Return the request for the completions of one prompt."""
    # At least one token is generated. If only the prompt was asked for, the reply leaves that token out.
    max_tokens = body.n_predict if body.max_tokens is None else body.max_tokens or 1
    echoed = [body.logprobs] if body.echo else []
    wanted = [number for number in (body.prompt_logprobs, *echoed) if number is not None]
    request_only = _request_only(body, model, body.logprobs, max(wanted, default=None))
    choice = choose_sampling(_asked(body, max_tokens, model.defaults), model.defaults, OPENAI_COMPLETIONS, request_only)
    return _text_request(body, prompt, choice, "prompt")


def _text_request(
    body: ChatRequest | CompletionRequest, prompt: EncodedPrompt, choice: SamplingChoice, prompt_field: str
) -> TextRequest:
    return replace(
        sampled_request(body, prompt.token_ids, choice, prompt_field),
        prompt_text=prompt.text,
        num_samples=body.num_choices,
        cut_to_fit=body.truncate_prompt_tokens == -1,
    )


def _asked(body: ChatRequest | CompletionRequest, max_tokens: int | None, defaults: ModelDefaults) -> dict[str, Any]:
    return asked_parameters(body, max_tokens) | _repetition(body, defaults)


def _repetition(body: ChatRequest | CompletionRequest, defaults: ModelDefaults) -> dict[str, Any]:
    """Return the repetition penalty and its window.

    vLLM's penalty considers all tokens, llama.cpp's the latest, unless the model or the request names a window.
    """
    window = body.repeat_last_n
    if window is None and body.repeat_penalty is not None and "repeat_last_n" not in defaults.parameters:
        window = LLAMA_CPP_REPEAT_LAST_N
    penalty = body.repetition_penalty if body.repeat_penalty is None else body.repeat_penalty
    return {"repeat_penalty": penalty, "repeat_last_n": window}


def _request_only(
    body: ChatRequest | CompletionRequest, model: ServedModel, num_logprobs: int | None, num_prompt_logprobs: int | None
) -> SamplingParams:
    """Return the parameters that only a request can set."""
    params = token_params(body, model)
    if isinstance(body, CompletionRequest) and body.suffix:
        stop_token_ids = tuple(dict.fromkeys((*params.stop_token_ids, *model.fill_tokens().end_ids)))
        params = replace(params, stop_token_ids=stop_token_ids)
    return replace(params, num_logprobs=num_logprobs, num_prompt_logprobs=num_prompt_logprobs)
