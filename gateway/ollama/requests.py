"""The conversion of request bodies of Ollama's API into requests for text, without the prompt."""

from gateway.answers.text_request import TextRequest, choose_sampling
from gateway.errors import InvalidRequestError
from gateway.http.fields import stop_strings
from gateway.models.served_model import ServedModel
from gateway.ollama.schemas import GenerateRequest, OllamaChatRequest, Options
from pagoda.models.sampling_defaults import OLLAMA
from pagoda.wire.sampling import SamplingParams


def text_request(body: GenerateRequest | OllamaChatRequest, model: ServedModel) -> TextRequest:
    """Return the request without its prompt, whose longest length depends on this request."""
    options = body.options or Options()
    if options.num_predict == 0:
        raise InvalidRequestError(
            "options.num_predict: must be at least 1, or -1 for no limit (got 0)", param="options.num_predict"
        )
    asked = options.model_dump(exclude_none=True)
    if options.stop is not None:
        asked["stop"] = stop_strings(options.stop)
    fills = isinstance(body, GenerateRequest) and bool(body.suffix)
    request_only = SamplingParams(
        num_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        stop_token_ids=model.fill_tokens().end_ids if fills else (),
    )
    return TextRequest(
        prompt_token_ids=(),
        prompt_field="messages" if isinstance(body, OllamaChatRequest) else "prompt",
        sampling=choose_sampling(asked, model.defaults, OLLAMA, request_only),
        keep_alive_s=body.keep_alive_s,
    )
