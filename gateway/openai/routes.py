"""OpenAI's endpoints: read the body, hand it on, write the reply."""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from types import MappingProxyType

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.answers.logprobs import check_prompt_scores
from gateway.answers.text_request import TextRequest
from gateway.errors import Dialect, InvalidRequestError, error_body
from gateway.http.api_document import reads
from gateway.http.streaming import sse_lines, stream_response, unless_gone
from gateway.models.served_model import ServedModel
from gateway.openai import convert
from gateway.openai.replies import ChatReply, CompletionReply, JSONObject, Reply
from gateway.openai.schemas import MAX_CHOICES, ChatRequest, CompletionRequest, Prompt
from gateway.state import GatewayState, http_context, state_of
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.model import Model
from pagoda.models.sampling_defaults import OPENAI_CHAT, as_json
from pagoda.text.prompt_bound import Keep
from pagoda.wire.model_info import ModelInfo

router = APIRouter(prefix="/v1")
# What OpenAI and vLLM call what Ollama's options have other names for.
_FIELDS = MappingProxyType({"repeat_penalty": "repetition_penalty", "num_predict": "max_tokens"})
_error_body = partial(error_body, dialect=Dialect.OPENAI)


@router.get("/models")
@router.get("/models/", include_in_schema=False)  # Without it the next route takes this for a model without a name.
async def list_models(request: Request) -> Response:
    state = state_of(request)
    infos = [(model, await state.models.info_if_any(model)) for model in await state.models.listed()]
    return JSONResponse({"object": "list", "data": await asyncio.to_thread(_model_objects, state, infos)})


@router.get("/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    state = state_of(request)
    model = (await state.models.find(name)).model
    info = await state.models.info_if_any(model)
    return JSONResponse(await asyncio.to_thread(_model_object, state, model, info))


@router.post("/chat/completions")
@reads(ChatRequest)
async def chat_completions(request: Request) -> Response:
    state = state_of(request)
    body = await state.bodies.read_body(request, ChatRequest)
    model = await state.models.find(body.model or None)
    messages = model.conversation(convert.chat_messages(body.messages))
    prompt = await model.encode_chat(messages, convert.chat_ending(body), keep=convert.kept(body), thinks=body.thinks)
    text_request = convert.chat_text_request(body, prompt, model.tokenizer.vocab_size, model.defaults)
    fitted = await state.generator.fit(model, [text_request])
    check_prompt_scores(fitted)
    reply = ChatReply(convert.reply_form(body, model.name, logprobs=bool(body.logprobs)), fitted)
    return await _respond(request, model, fitted, reply, stream=bool(body.stream))


@router.post("/completions")
@reads(CompletionRequest)
async def completions(request: Request) -> Response:
    state = state_of(request)
    body = await state.bodies.read_body(request, CompletionRequest)
    model = await state.models.find(body.model or None)
    prompts = await _prompts(body, model)
    vocab_size = model.tokenizer.vocab_size
    text_requests = [convert.completion_text_request(body, prompt, vocab_size, model.defaults) for prompt in prompts]
    fitted = await state.generator.fit(model, text_requests)
    check_prompt_scores(fitted)
    form = convert.reply_form(body, model.name, logprobs=body.logprobs is not None)
    echoes = _echoes(body, model, fitted) if body.echo else ()
    reply = CompletionReply(form, fitted, echoes, nothing_but_echo=body.max_tokens == 0)
    return await _respond(request, model, fitted, reply, stream=bool(body.stream))


async def _respond(
    request: Request, model: ServedModel, text_requests: Sequence[TextRequest], reply: Reply, *, stream: bool
) -> Response:
    events = state_of(request).generator.generate(model, text_requests, http_context(request))
    if stream:
        lines = sse_lines(reply.chunks(events), _error_body)
        interval_s = state_of(request).comment_interval_s
        return await stream_response(request, lines, "text/event-stream", comment_every_s=interval_s)
    whole = await unless_gone(request.receive, reply.whole(events))
    return Response(whole, media_type="application/json")


async def _prompts(body: CompletionRequest, model: ServedModel) -> list[list[int]]:
    """The token ids of each prompt, whatever form they came in."""
    entries = _entries(body.prompt)
    if len(entries) * body.num_choices > MAX_CHOICES:
        raise InvalidRequestError(
            f"prompt: {len(entries)} prompts with n={body.num_choices} are more than {MAX_CHOICES} choices",
            param="prompt",
        )
    texts = [entry for entry in entries if isinstance(entry, str)]
    if texts:
        special, keep = body.add_special_tokens is not False, convert.kept(body)
        return await model.encode_texts(texts, add_special_tokens=special, keep=keep)
    prompts = [entry for entry in entries if not isinstance(entry, str)]
    for token_ids in prompts:
        convert.check_token_ids(token_ids, model.tokenizer.vocab_size, "prompt")
    return prompts


def _entries(prompt: Prompt) -> list[str | list[int]]:
    """One or several prompts, all of them texts or all of them token ids."""
    match prompt:
        case str(text):
            return [text]
        case [int(), *_] as token_ids:
            return [list[int](token_ids)]  # type: ignore[arg-type]  # a list is of one kind, which mypy cannot see
        case several:
            return list(several)  # type: ignore[arg-type]


def _echoes(body: CompletionRequest, model: ServedModel, requests: Sequence[TextRequest]) -> list[str]:
    """A text as it was written, control tokens included; what was given as token ids, or was cut, by its tokens."""
    skip, is_whole = body.skip_special_tokens is not False, convert.kept(body) is Keep.ALL
    return [
        entry
        if isinstance(entry, str) and is_whole
        else model.tokenizer.decode(request.prompt_token_ids, skip_special_tokens=skip)
        for entry, request in zip(_entries(body.prompt), requests, strict=True)
    ]


def _model_objects(state: GatewayState, infos: Sequence[tuple[Model, ModelInfo | None]]) -> list[JSONObject]:
    """Without those that are deleted meanwhile."""
    objects = []
    for model, info in infos:
        with contextlib.suppress(ModelNotFoundError):
            objects.append(_model_object(state, model, info))
    return objects


def _model_object(state: GatewayState, model: Model, info: ModelInfo | None) -> JSONObject:
    """`max_model_len` as vLLM has it; `sampling_defaults` is ours: what holds where a chat leaves everything open.

    Reads the model's manifest."""
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
