"""From Ollama's request bodies to what the generator takes. Pure functions; pydantic ends here."""

from collections.abc import Sequence

from gateway.answers.sampling_choice import choose_sampling
from gateway.answers.text_request import TextRequest
from gateway.errors import InvalidRequestError
from gateway.http.fields import stop_strings
from gateway.ollama.schemas import ChatMessage, ChatRequest, GenerateRequest, Options
from pagoda.models.sampling_defaults import OLLAMA, ModelDefaults
from pagoda.wire.sampling import SamplingParams


def chat_messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def check_context(token_ids: Sequence[int], vocab_size: int) -> None:
    wrong = max(token_ids, default=0)
    if wrong >= vocab_size:
        raise InvalidRequestError(
            f"context: token id {wrong} is out of range; the model's vocabulary has {vocab_size} tokens",
            param="context",
        )


def text_request(body: GenerateRequest | ChatRequest, prompt_field: str, defaults: ModelDefaults) -> TextRequest:
    """All but the prompt. `defaults` say what holds where the request leaves something open."""
    options = body.options or Options()
    if options.num_predict == 0:
        raise InvalidRequestError(
            "options.num_predict: must be at least 1, or -1 for no limit (got 0)", param="options.num_predict"
        )
    asked = options.model_dump(exclude_none=True)
    if options.stop is not None:
        asked["stop"] = stop_strings(options.stop)
    request_only = SamplingParams(num_logprobs=(body.top_logprobs or 0) if body.logprobs else None)
    choice = choose_sampling(asked, defaults, OLLAMA, request_only)
    return TextRequest(
        prompt_token_ids=(),
        sampling=choice.params,
        seed=choice.seed,
        stops=choice.stops,
        max_total_tokens=choice.max_total_tokens,
        chosen=choice.parameters,
        keep_alive_s=body.keep_alive_s,
        prompt_field=prompt_field,
    )
