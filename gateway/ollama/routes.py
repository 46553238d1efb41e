"""Ollama's endpoints for running models: chat, generate, ps and version. store_routes.py has those for stored models."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gateway.answers.text_request import TextRequest
from gateway.chat.prepare import with_answer_form
from gateway.chat.truncation import Window
from gateway.errors import Dialect, ErrorKind, GatewayError, InvalidRequestError, error_body
from gateway.http.bodies import json_body
from gateway.http.http_context import http_context, note_truncation
from gateway.http.reply_models import GENERATION_ERRORS, NDJSON, OllamaError, errors, streams
from gateway.http.streaming import ndjson_lines, stream_response, unless_gone
from gateway.models.served_model import ServedModel
from gateway.models.served_models import how_to_pull
from gateway.ollama.asks import chat_ask, prompt_ask
from gateway.ollama.prompts import FittedPrompt, check_prompt_parts, encode_chat, encode_prompt
from gateway.ollama.replies import ChatReply, GenerateReply, Reply
from gateway.ollama.reply_models import OllamaChatReply, OllamaGenerateReply, OllamaRunningModels, OllamaVersion
from gateway.ollama.requests import text_request
from gateway.ollama.schemas import GenerateRequest, OllamaChatRequest
from gateway.state import GatewayState, State
from pagoda.api_keys.key_file import Scope
from pagoda.distribution import VERSION
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.model import Model
from pagoda.models.names import with_tag
from pagoda.models.ollama_objects import JSONObject, identity
from pagoda.wire.load_progress import LoadProgress
from pagoda.wire.model_info import ModelInfo

router = APIRouter(tags=["Ollama"], responses=errors(OllamaError))
FOREVER = "2318-01-01T00:00:00Z"
"""Ollama's `expires_at` of a model that is never unloaded."""
_error_body = partial(error_body, dialect=Dialect.OLLAMA)


@router.api_route("/", methods=["GET", "HEAD"], response_class=PlainTextResponse)
async def root() -> Response:
    """Confirm that a server is running. Ollama's clients look for this text."""
    return PlainTextResponse("Ollama is running")


@router.api_route("/api/version", methods=["GET", "HEAD"], response_model=OllamaVersion)
async def version() -> Response:
    """Return the server's version."""
    return JSONResponse({"version": VERSION})


@router.get("/api/ps", response_model=OllamaRunningModels)
async def list_running(state: State) -> Response:
    """List the models that are in memory or being loaded."""
    in_memory = await state.models.models_in_memory()
    return JSONResponse({"models": await asyncio.to_thread(_running, state, in_memory)})


def _running(state: GatewayState, in_memory: Sequence[tuple[Model | None, ModelInfo]]) -> list[JSONObject]:
    running = []
    for model, info in in_memory:
        try:
            describe = partial(_running_object, info=info)
            running.append(state.store.read_current(model, describe)[1] if model else describe(None))
        except ModelNotFoundError:  # deleted since the list was made
            running.append(_running_object(None, info))
    return running


@router.post(
    "/api/generate",
    response_model=OllamaGenerateReply,
    responses=streams(NDJSON, OllamaGenerateReply, OllamaError, default=True) | errors(OllamaError, *GENERATION_ERRORS),
)
async def generate(
    request: Request, state: State, body: Annotated[GenerateRequest, json_body(GenerateRequest)]
) -> Response:
    """Answer a prompt. Without a prompt, load the model, or unload it if `keep_alive` is 0."""
    model = await _find(request, state, body)
    check_prompt_parts(body, model, request.state.caller, trusts_templates=state.trust_request_chat_template)
    if not body.prompt and not body.suffix:
        return await _load(request, state, model, body, GenerateReply(body))
    asked, ask = text_request(body, model), prompt_ask(body, ())
    fitted = await encode_prompt(body, model, partial(_window, state, model, asked))
    has_template = not body.raw and not body.suffix and (model.chat_template is not None or bool(body.template))
    reply = GenerateReply(body, prompt=fitted.prompt.token_ids if has_template else None)
    if body.debug_render_only:
        return _show_prompt(request, model, fitted, reply)
    asked = await with_answer_form(asked, ask, fitted.prompt, model, state.grammars)
    if not has_template:
        asked = replace(asked, open_parser=None)
    return await _respond(request, state, model, asked, fitted, reply)


@router.post(
    "/api/chat",
    response_model=OllamaChatReply,
    responses=streams(NDJSON, OllamaChatReply, OllamaError, default=True) | errors(OllamaError, *GENERATION_ERRORS),
)
async def chat(
    request: Request, state: State, body: Annotated[OllamaChatRequest, json_body(OllamaChatRequest)]
) -> Response:
    """Answer a conversation. Without messages, load the model, or unload it if `keep_alive` is 0."""
    if not body.model:
        raise InvalidRequestError("model is required", param="model")
    model = await _find(request, state, body)
    reply = ChatReply(body)
    if not body.messages:
        return await _load(request, state, model, body, reply)
    asked, ask = text_request(body, model), chat_ask(body, model)
    fitted = await encode_chat(body, ask, model, partial(_window, state, model, asked))
    if body.debug_render_only:
        return _show_prompt(request, model, fitted, reply)
    asked = await with_answer_form(asked, ask, fitted.prompt, model, state.grammars)
    return await _respond(request, state, model, asked, fitted, reply)


async def _window(state: GatewayState, model: ServedModel, asked: TextRequest) -> Window:
    num_tokens = await state.generator.window_of(model)
    limit = asked.sampling.max_total_tokens or num_tokens
    return Window(num_tokens=min(num_tokens, limit), max_tokens=asked.sampling.params.max_tokens)


def _show_prompt(request: Request, model: ServedModel, fitted: FittedPrompt, reply: Reply) -> Response:
    """Respond with the prompt instead of an answer, as one object even if the request wants a stream."""
    if fitted.left_out:
        note_truncation(request, fitted.left_out)
    text = model.tokenizer.decode(fitted.prompt.token_ids, skip_special_tokens=False)
    return JSONResponse(reply.only_prompt(text))


async def _respond(
    request: Request, state: GatewayState, model: ServedModel, asked: TextRequest, fitted: FittedPrompt, reply: Reply
) -> Response:
    if fitted.left_out:
        note_truncation(request, fitted.left_out)
    only = replace(asked, prompt_token_ids=tuple(fitted.prompt.token_ids))
    text_requests = await state.generator.fit_requests(model, [only])
    events = state.generator.generate_text(model, text_requests, http_context(request))
    if reply.is_streamed:
        lines = ndjson_lines(reply.stream_lines(events), _error_body)
        return await stream_response(request, lines, NDJSON)
    whole = await unless_gone(request.receive, reply.encode_whole(events))
    return Response(whole, media_type="application/json")


async def _load(
    request: Request,
    state: GatewayState,
    model: ServedModel,
    body: GenerateRequest | OllamaChatRequest,
    reply: Reply,
) -> Response:
    """Load or unload the model, since there is nothing to generate."""
    caller = http_context(request).caller
    if body.unloads and not caller.may_unload:
        raise GatewayError(
            ErrorKind.FORBIDDEN,
            f"keep_alive: the API key '{caller.key_name}' lacks the scope '{Scope.ADMIN}', which unloading a model requires, "
            "since others may be using it.",
            param="keep_alive",
        )
    await state.models.model_info(model.model)
    await state.schedulers.keep_loaded(model.name, body.keep_alive_s, may_unload=caller.may_unload)
    return JSONResponse(reply.nothing_asked("unload" if body.unloads else "load"))


async def _find(request: Request, state: GatewayState, body: GenerateRequest | OllamaChatRequest) -> ServedModel:
    """Return the model, pulled if requests may cause pulls. Ollama's API always needs a name, and has its own error text."""
    name = body.model
    if name and state.models.has_model(name):
        return await state.models.find_model(name)
    if not name or not state.models.pulls_on_demand or body.unloads:
        raise GatewayError(
            ErrorKind.NOT_FOUND, f"model '{name}' not found.{how_to_pull(name)}".rstrip("."), param="model"
        )
    return await unless_gone(request.receive, state.models.find_or_pull(name))


def _running_object(model: Model | None, info: ModelInfo) -> JSONObject:
    """Describe a model in memory. None is a deleted model, which stays in memory until no request uses it."""
    name = with_tag(info.name)
    described: JSONObject = (
        identity(model) if model else {"name": name, "model": name, "size": 0, "digest": info.digest}
    )
    loading = info.loading if not info.num_workers else None
    return described | {
        "expires_at": _expires_at(info.expires_in_s),
        "size_vram": 0 if info.device.startswith("cpu") else described["size"],
        "context_length": info.max_model_len,
        **({} if loading is None else _loading_object(loading, described["size"])),
    }


def _loading_object(loading: LoadProgress, model_bytes: int) -> JSONObject:
    """Describe a load as Ollama describes a pull. Until a worker has reported, the total is the size of the model's files."""
    total = loading.total_bytes or model_bytes
    return {"status": "loading", "total": total, "completed": min(loading.completed_bytes, total)}


def _expires_at(expires_in_s: float | None) -> str:
    if expires_in_s is None:
        return FOREVER
    moment = datetime.now(UTC) + timedelta(seconds=expires_in_s)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
