"""Anthropic's endpoints: messages and the count of their tokens."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.answers.text_events import TextEvents
from gateway.anthropic.replies import JSONObject, Reply
from gateway.anthropic.reply_models import (
    AnthropicError,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    MessageDelta,
    MessageReply,
    MessageStart,
    MessageStop,
    Ping,
    TokenCount,
)
from gateway.anthropic.requests import chat_ask, text_request
from gateway.anthropic.schemas import CountTokensRequest, MessagesRequest
from gateway.chat.prepare import encode_chat, with_answer_form
from gateway.chat.template_variables import asked_thinking
from gateway.errors import Dialect, error_body
from gateway.http.bodies import json_body
from gateway.http.http_context import http_context, note_ignored_fields
from gateway.http.reply_models import EVENT_STREAM, GENERATION_ERRORS, errors, streams
from gateway.http.streaming import event_lines, stream_response, unless_gone
from gateway.models.served_model import ServedModel
from gateway.state import GatewayState, State

router = APIRouter(prefix="/v1", tags=["Anthropic"])
_error_body = partial(error_body, dialect=Dialect.ANTHROPIC)
_STREAM_EVENTS = (
    MessageStart,
    Ping,
    ContentBlockStart,
    ContentBlockDelta,
    ContentBlockStop,
    MessageDelta,
    MessageStop,
    AnthropicError,
)


@router.post(
    "/messages",
    response_model=MessageReply,
    responses=streams(EVENT_STREAM, *_STREAM_EVENTS, named_events=True) | errors(AnthropicError, *GENERATION_ERRORS),
)
async def messages(
    request: Request, state: State, body: Annotated[MessagesRequest, json_body(MessagesRequest)]
) -> Response:
    """Answer a conversation."""
    if body.stream:
        lines = event_lines(_events(request, state, body), _error_body)
        return await stream_response(request, lines, EVENT_STREAM, comment_every_s=state.comment_interval_s)
    whole = await unless_gone(request.receive, _whole(request, state, body))
    return Response(whole, media_type="application/json")


@router.post(
    "/messages/count_tokens",
    response_model=TokenCount,
    responses=errors(AnthropicError, *GENERATION_ERRORS),
)
async def count_tokens(
    request: Request, state: State, body: Annotated[CountTokensRequest, json_body(CountTokensRequest)]
) -> Response:
    """Count the tokens of a conversation, its system prompt and its tools."""
    model = await state.models.find_or_pull(body.model or None)
    prompt = await encode_chat(chat_ask(body, model, thinks=_thinks(request, body, model)), model)
    return JSONResponse({"input_tokens": len(prompt.token_ids)})


async def _begin(request: Request, state: GatewayState, body: MessagesRequest) -> tuple[Reply, TextEvents]:
    model = await state.models.find_or_pull(body.model or None)
    ask = chat_ask(body, model, thinks=_thinks(request, body, model))
    prompt = await encode_chat(ask, model)
    asked = await with_answer_form(text_request(body, prompt, model), ask, prompt, model, state.grammars)
    text_requests = await state.generator.fit_requests(model, [asked])
    reply = Reply(
        body.model or model.name,
        num_prompt_tokens=len(text_requests[0].prompt_token_ids),
        hides_thinking=body.thinking is not None and body.thinking.display == "omitted",
    )
    return reply, state.generator.generate_text(model, text_requests, http_context(request))


async def _events(request: Request, state: GatewayState, body: MessagesRequest) -> AsyncGenerator[JSONObject, None]:
    reply, events = await _begin(request, state, body)
    async with aclosing(reply.stream_events(events)) as stream:
        async for event in stream:
            yield event


async def _whole(request: Request, state: GatewayState, body: MessagesRequest) -> bytes:
    reply, events = await _begin(request, state, body)
    return await reply.encode_whole(events)


def _thinks(request: Request, body: CountTokensRequest, model: ServedModel) -> bool | None:
    """Return whether the model is to think; None leaves it to the template.

    Clients such as Claude Code ask every model to think, so a model that cannot think ignores it. A header says so.
    """
    if body.thinking is None or body.thinking.type == "adaptive":
        return asked_thinking(body.chat_template_kwargs or {})
    if body.thinking.type == "enabled" and not model.can_think():
        note_ignored_fields(request, ("thinking",))
        return None
    return body.thinking.type == "enabled"
