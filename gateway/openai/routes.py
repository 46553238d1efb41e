"""OpenAI's endpoints: read the body, hand it on, write the reply."""

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.errors import Dialect, InvalidRequestError, error_body
from gateway.generation import TextRequest
from gateway.openai import convert
from gateway.openai.replies import ChatReply, CompletionReply, JSONObject, Reply
from gateway.openai.schemas import MAX_CHOICES, ChatRequest, CompletionRequest
from gateway.served_models import ServedModel
from gateway.state import GatewayState, http_context, state_of
from gateway.streaming import sse_lines, stream_response, unless_gone

router = APIRouter(prefix="/v1")
_error_body = partial(error_body, dialect=Dialect.OPENAI)


@router.get("/models")
async def list_models(request: Request) -> Response:
    state = state_of(request)
    return JSONResponse({"object": "list", "data": [await _model_object(state, model) for model in state.models]})


@router.get("/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    state = state_of(request)
    return JSONResponse(await _model_object(state, state.models.find(name)))


@router.post("/chat/completions")
async def chat_completions(request: Request) -> Response:
    state = state_of(request)
    body = await state.read_body(request, ChatRequest)
    model = state.models.find(body.model or None)
    prompt = await model.encode_chat(convert.chat_messages(body.messages))
    reply = ChatReply(
        model=body.model or model.name,
        num_prompt_tokens=[len(prompt)],
        num_samples=body.num_choices,
        wants_logprobs=bool(body.logprobs),
        options=body.stream_options,
    )
    text_request = convert.chat_text_request(body, prompt, model.tokenizer.vocab_size)
    return await _respond(request, model, [text_request], reply, stream=bool(body.stream))


@router.post("/completions")
async def completions(request: Request) -> Response:
    state = state_of(request)
    body = await state.read_body(request, CompletionRequest)
    model = state.models.find(body.model or None)
    prompts = await _prompts(body, model)
    reply = CompletionReply(
        model=body.model or model.name,
        num_prompt_tokens=[len(prompt) for prompt in prompts],
        num_samples=body.num_choices,
        wants_logprobs=body.logprobs is not None,
        options=body.stream_options,
    )
    vocab_size = model.tokenizer.vocab_size
    text_requests = [convert.completion_text_request(body, prompt, vocab_size) for prompt in prompts]
    return await _respond(request, model, text_requests, reply, stream=bool(body.stream))


async def _respond(
    request: Request, model: ServedModel, text_requests: Sequence[TextRequest], reply: Reply, *, stream: bool
) -> Response:
    events = await state_of(request).generator.generate(model, text_requests, http_context(request))
    if stream:
        return await stream_response(request, sse_lines(reply.chunks(events), _error_body), "text/event-stream")
    return JSONResponse(await unless_gone(request.receive, reply.whole(events)))


async def _prompts(body: CompletionRequest, model: ServedModel) -> list[list[int]]:
    """The token ids of each prompt, whatever form they came in."""
    entries: list[str | list[int]]
    match body.prompt:
        case str(text):
            entries = [text]
        case [int(), *_] as token_ids:
            entries = [list[int](token_ids)]  # type: ignore[arg-type]  # a list is of one kind, which mypy cannot see
        case several:
            entries = list(several)  # type: ignore[arg-type]
    if len(entries) * body.num_choices > MAX_CHOICES:
        raise InvalidRequestError(
            f"prompt: {len(entries)} prompts with n={body.num_choices} are more than {MAX_CHOICES} choices",
            param="prompt",
        )
    return [await _prompt_token_ids(entry, model) for entry in entries]


async def _prompt_token_ids(entry: str | list[int], model: ServedModel) -> list[int]:
    if isinstance(entry, str):
        return await model.encode_text(entry)
    convert.check_token_ids(entry, model.tokenizer.vocab_size, "prompt")
    return entry


async def _model_object(state: GatewayState, model: ServedModel) -> JSONObject:
    info = await state.models.info_if_any(model)
    return {
        "id": model.name,
        "object": "model",
        "created": int(state.started_at),
        "owned_by": "pagoda",
        "root": model.name,
        "parent": None,
        "max_model_len": None if info is None else info.max_model_len,
    }
