"""OpenAI's endpoints: models, chat completions and completions."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from types import MappingProxyType
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.answers.text_events import TextEvents
from gateway.chat.prepare import with_answer_form
from gateway.chat.text_form import with_text_rule
from gateway.errors import Dialect, error_body
from gateway.http.bodies import json_body
from gateway.http.http_context import http_context
from gateway.http.reply_models import EVENT_STREAM, GENERATION_ERRORS, OpenAIError, errors, streams
from gateway.http.streaming import sse_lines, stream_response, unless_gone
from gateway.openai.chat_reply import ChatReply
from gateway.openai.completion_reply import CompletionReply
from gateway.openai.prompts import chat_ask, encode_asked_chat, encode_prompts, request_template, without_effect
from gateway.openai.reply import JSONObject, Reply
from gateway.openai.reply_models import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    ModelList,
    ModelObject,
)
from gateway.openai.requests import chat_text_request, completion_text_request
from gateway.openai.schemas import ChatRequest, CompletionRequest
from gateway.openai.text_rules import text_rule_of
from gateway.state import GatewayState, State
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.model import Model
from pagoda.models.sampling_defaults import OPENAI_CHAT, as_json
from pagoda.wire.model_info import ModelInfo

router = APIRouter(prefix="/v1", tags=["OpenAI"])
# Parameters whose names in OpenAI's API differ from those in Ollama's options.
_FIELDS = MappingProxyType({"repeat_penalty": "repetition_penalty", "num_predict": "max_tokens"})
Begin = Callable[[], Awaitable[tuple[Reply, TextEvents]]]
"""A function that begins to answer a request."""
_error_body = partial(error_body, dialect=Dialect.OPENAI)


@router.get("/models", response_model=ModelList, responses=errors(OpenAIError))
@router.get("/models/", include_in_schema=False)  # without it, the next route would look for a model without a name
async def list_models(state: State) -> Response:
    """List the models that this server has."""
    infos = [(model, await state.models.model_info_if_any(model)) for model in await state.models.listed_models()]
    return JSONResponse({"object": "list", "data": await asyncio.to_thread(_model_objects, state, infos)})


@router.get("/models/{name:path}", response_model=ModelObject, responses=errors(OpenAIError, 400, 404))
async def get_model(state: State, name: str) -> Response:
    """Describe a model."""
    model = (await state.models.find_model(name)).model
    info = await state.models.model_info_if_any(model)
    return JSONResponse(await asyncio.to_thread(_model_object, state, model, info))


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses=streams(EVENT_STREAM, ChatCompletionChunk, OpenAIError) | errors(OpenAIError, *GENERATION_ERRORS),
)
async def chat_completions(
    request: Request, state: State, body: Annotated[ChatRequest, json_body(ChatRequest)]
) -> Response:
    """Answer a conversation."""

    async def begin() -> tuple[Reply, TextEvents]:
        model = await state.models.find_or_pull(body.model or None)
        caller = http_context(request).caller
        template = await request_template(body, model, caller, trusts_all=state.trust_request_chat_template)
        if names := without_effect(body, template or model.chat_template):
            request.app.state.bodies.note_without_effect(request, names)
        ask = chat_ask(body, model)
        prompt = await encode_asked_chat(body, ask, model, template)
        asked = chat_text_request(body, prompt, model)
        text_request = await with_answer_form(asked, ask, prompt, model, state.grammars)
        text_requests = await state.generator.fit_requests(model, [text_request])
        reply = ChatReply(body, model, text_requests)
        return reply, state.generator.generate_text(model, text_requests, http_context(request))

    return await _respond(request, state, begin, stream=bool(body.stream))


@router.post(
    "/completions",
    response_model=Completion,
    responses=streams(EVENT_STREAM, CompletionChunk, OpenAIError) | errors(OpenAIError, *GENERATION_ERRORS),
)
async def completions(
    request: Request, state: State, body: Annotated[CompletionRequest, json_body(CompletionRequest)]
) -> Response:
    """Continue one or several prompts."""

    async def begin() -> tuple[Reply, TextEvents]:
        model = await state.models.find_or_pull(body.model or None)
        prompts = await encode_prompts(body, model)
        rule = text_rule_of(body)
        asked = [
            await with_text_rule(completion_text_request(body, prompt, model), rule, model, state.grammars)
            for prompt in prompts
        ]
        text_requests = await state.generator.fit_requests(model, asked)
        reply = CompletionReply(body, model, text_requests)
        return reply, state.generator.generate_text(model, text_requests, http_context(request))

    return await _respond(request, state, begin, stream=bool(body.stream))


async def _respond(request: Request, state: GatewayState, begin: Begin, *, stream: bool) -> Response:
    """Respond with the reply that `begin` returns. A stream gets comments while `begin` waits for a pull."""
    if stream:
        lines = sse_lines(_chunks(begin), _error_body)
        return await stream_response(request, lines, EVENT_STREAM, comment_every_s=state.comment_interval_s)
    return Response(await unless_gone(request.receive, _whole(begin)), media_type="application/json")


async def _chunks(begin: Begin) -> AsyncGenerator[JSONObject, None]:
    reply, events = await begin()
    async with aclosing(reply.stream_chunks(events)) as chunks:
        async for chunk in chunks:
            yield chunk


async def _whole(begin: Begin) -> bytes:
    reply, events = await begin()
    return await reply.encode_whole(events)


def _model_objects(state: GatewayState, infos: Sequence[tuple[Model, ModelInfo | None]]) -> list[JSONObject]:
    """Describe the models. A model that is deleted at the same time is left out."""
    objects = []
    for model, info in infos:
        with contextlib.suppress(ModelNotFoundError):
            objects.append(_model_object(state, model, info))
    return objects


def _model_object(state: GatewayState, model: Model, info: ModelInfo | None) -> JSONObject:
    """Describe the model by its current manifest.

    `max_model_len` is vLLM's field. `sampling_defaults` is ours: the parameters that apply to a chat request that sets none.
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
