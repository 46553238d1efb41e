"""OpenAI's endpoints: the body becomes a prompt, the prompt a request, its answer a reply."""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from types import MappingProxyType

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.answers.text_request import TextRequest
from gateway.errors import Dialect, error_body
from gateway.http.api_document import reads
from gateway.http.http_context import http_context
from gateway.http.streaming import sse_lines, stream_response, unless_gone
from gateway.models.served_model import ServedModel
from gateway.openai.chat_reply import ChatReply
from gateway.openai.completion_reply import CompletionReply
from gateway.openai.prompts import encode_chat, encode_prompts
from gateway.openai.reply import JSONObject, Reply
from gateway.openai.requests import chat_text_request, completion_text_request
from gateway.openai.schemas import ChatRequest, CompletionRequest
from gateway.state import GatewayState, state_of
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.model import Model
from pagoda.models.sampling_defaults import OPENAI_CHAT, as_json
from pagoda.wire.model_info import ModelInfo

router = APIRouter(prefix="/v1")
# What OpenAI and vLLM call what Ollama's options have other names for.
_FIELDS = MappingProxyType({"repeat_penalty": "repetition_penalty", "num_predict": "max_tokens"})
_error_body = partial(error_body, dialect=Dialect.OPENAI)


@router.get("/models")
@router.get("/models/", include_in_schema=False)  # Without it the next route takes this for a model without a name.
async def list_models(request: Request) -> Response:
    state = state_of(request)
    infos = [(model, await state.models.model_info_if_any(model)) for model in await state.models.listed_models()]
    return JSONResponse({"object": "list", "data": await asyncio.to_thread(_model_objects, state, infos)})


@router.get("/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    state = state_of(request)
    model = (await state.models.find_model(name)).model
    info = await state.models.model_info_if_any(model)
    return JSONResponse(await asyncio.to_thread(_model_object, state, model, info))


@router.post("/chat/completions")
@reads(ChatRequest)
async def chat_completions(request: Request) -> Response:
    state = state_of(request)
    body = await state.bodies.read_body(request, ChatRequest)
    model = await state.models.find_model(body.model or None)
    prompt = await encode_chat(body, model)
    text_requests = await state.generator.fit_requests(model, [chat_text_request(body, prompt, model)])
    reply = ChatReply(body, model, text_requests)
    return await _respond(request, model, text_requests, reply, stream=bool(body.stream))


@router.post("/completions")
@reads(CompletionRequest)
async def completions(request: Request) -> Response:
    state = state_of(request)
    body = await state.bodies.read_body(request, CompletionRequest)
    model = await state.models.find_model(body.model or None)
    prompts = await encode_prompts(body, model)
    asked = [completion_text_request(body, prompt, model) for prompt in prompts]
    text_requests = await state.generator.fit_requests(model, asked)
    reply = CompletionReply(body, model, text_requests)
    return await _respond(request, model, text_requests, reply, stream=bool(body.stream))


async def _respond(
    request: Request, model: ServedModel, text_requests: Sequence[TextRequest], reply: Reply, *, stream: bool
) -> Response:
    events = state_of(request).generator.generate_text(model, text_requests, http_context(request))
    if stream:
        lines = sse_lines(reply.stream_chunks(events), _error_body)
        interval_s = state_of(request).comment_interval_s
        return await stream_response(request, lines, "text/event-stream", comment_every_s=interval_s)
    whole = await unless_gone(request.receive, reply.encode_whole(events))
    return Response(whole, media_type="application/json")


def _model_objects(state: GatewayState, infos: Sequence[tuple[Model, ModelInfo | None]]) -> list[JSONObject]:
    """Leave out those that are deleted meanwhile."""
    objects = []
    for model, info in infos:
        with contextlib.suppress(ModelNotFoundError):
            objects.append(_model_object(state, model, info))
    return objects


def _model_object(state: GatewayState, model: Model, info: ModelInfo | None) -> JSONObject:
    """Read the model's manifest and describe the model.

    `max_model_len` is as vLLM has it; `sampling_defaults` is ours: what holds where a chat leaves everything open.
    """
    model, defaults = state.store.read_current(model, state.sampling_policy.defaults_of)
    return {
        "id": model.name,
        "object": "model",
        "created": int(state.started_at),
        "owned_by": "pagoda",
        "root": model.name,
        "parent": None,
        "max_model_len": None if info is None else min(info.max_model_len, defaults.window or info.max_model_len),
        "sampling_defaults": as_json(defaults.choose({}, OPENAI_CHAT), _FIELDS),
    }
