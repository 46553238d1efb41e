"""Ollama's endpoints: read the body, hand it on, write the reply."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gateway.errors import Dialect, ErrorKind, GatewayError, InvalidRequestError, error_body
from gateway.ollama import convert, model_objects
from gateway.ollama.replies import ChatReply, GenerateReply, Reply
from gateway.ollama.schemas import ChatRequest, GenerateRequest, ShowRequest
from gateway.operations import VERSION
from gateway.served_models import ServedModel
from gateway.state import GatewayState, http_context, state_of
from gateway.streaming import ndjson_lines, stream_response, unless_gone
from gateway.text_request import TextRequest

router = APIRouter()
_error_body = partial(error_body, dialect=Dialect.OLLAMA)


@router.api_route("/", methods=["GET", "HEAD"])
async def root() -> Response:
    return PlainTextResponse("Ollama is running")


@router.api_route("/api/version", methods=["GET", "HEAD"])
async def version() -> Response:
    return JSONResponse({"version": VERSION})


@router.api_route("/api/tags", methods=["GET", "HEAD"])
async def list_models(request: Request) -> Response:
    return JSONResponse({"models": [model_objects.listed(model) for model in state_of(request).models]})


@router.get("/api/ps")
async def list_running(request: Request) -> Response:
    models = state_of(request).models
    infos = [(model, await models.info_if_any(model)) for model in models]
    return JSONResponse({"models": [model_objects.running(model, info) for model, info in infos if info is not None]})


@router.post("/api/show")
async def show(request: Request) -> Response:
    state = state_of(request)
    body = await state.read_body(request, ShowRequest)
    return JSONResponse(model_objects.shown(_find(state, body.model or body.name)))


@router.post("/api/generate")
async def generate(request: Request) -> Response:
    state = state_of(request)
    body = await state.read_body(request, GenerateRequest)
    model = _find(state, body.model)
    if not body.prompt:
        return await _load(state, model, body, GenerateReply(model=body.model, wants_logprobs=False))
    raw = body.raw or model.chat_template is None
    if raw and body.system:
        raise InvalidRequestError("raw mode does not support template, system, or context", param="system")
    if raw:
        prompt = await model.encode_text(body.prompt)
    else:
        prompt = await model.encode_chat(convert.generate_messages(body))
    reply = GenerateReply(model=body.model, wants_logprobs=bool(body.logprobs), prompt=None if raw else prompt)
    return await _respond(request, model, convert.text_request(body, prompt, "prompt"), reply, body.stream)


@router.post("/api/chat")
async def chat(request: Request) -> Response:
    state = state_of(request)
    body = await state.read_body(request, ChatRequest)
    if not body.model:
        raise InvalidRequestError("model is required", param="model")
    model = _find(state, body.model)
    reply = ChatReply(model=body.model, wants_logprobs=bool(body.logprobs))
    if not body.messages:
        return await _load(state, model, body, reply)
    prompt = await model.encode_chat(convert.chat_messages(body.messages))
    return await _respond(request, model, convert.text_request(body, prompt, "messages"), reply, body.stream)


async def _respond(
    request: Request, model: ServedModel, text_request: TextRequest, reply: Reply, stream: bool | None
) -> Response:
    generator = state_of(request).generator
    events = generator.generate(model, await generator.fit(model, [text_request]), http_context(request))
    if stream is None or stream:
        return await stream_response(request, ndjson_lines(reply.lines(events), _error_body), "application/x-ndjson")
    return JSONResponse(await unless_gone(request.receive, reply.whole(events)))


async def _load(state: GatewayState, model: ServedModel, body: GenerateRequest | ChatRequest, reply: Reply) -> Response:
    """Nothing to generate. A worker holds its model for as long as it lives, so this only says whether there is one."""
    if not body.unloads:
        await state.models.info(model)
    return JSONResponse(reply.nothing_asked("unload" if body.unloads else "load"))


def _find(state: GatewayState, name: str) -> ServedModel:
    """Ollama always wants a name, and has a sentence of its own for one that is not there."""
    try:
        return state.models.find(name)
    except GatewayError:
        raise GatewayError(ErrorKind.NOT_FOUND, f"model '{name}' not found", param="model") from None
