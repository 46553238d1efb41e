"""vLLM's endpoints for the tokens of texts: /tokenize and /detokenize."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.chat.prepare import encode_chat
from gateway.http.bodies import json_body
from gateway.http.http_context import http_context
from gateway.http.reply_models import JSON_BODY_ERRORS, OpenAIError, errors
from gateway.models.served_model import ServedModel
from gateway.openai.prompts import chat_ask, request_template
from gateway.openai.reply_models import DetokenizeReply, TokenizeReply
from gateway.openai.schemas import DetokenizeRequest, TokenizeChatRequest, TokenizePromptRequest
from gateway.state import State

router = APIRouter(tags=["OpenAI"])

MAX_TOKENS = 1 << 18
"""Longest text that is tokenized, in tokens, unless the model's window is longer."""


def _schema(body: Mapping[str, Any]) -> type[TokenizeChatRequest | TokenizePromptRequest]:
    return TokenizeChatRequest if "messages" in body else TokenizePromptRequest


_TokenizeBody = Annotated[
    TokenizePromptRequest | TokenizeChatRequest,
    json_body(TokenizePromptRequest, TokenizeChatRequest, choose=_schema),
]


@router.post("/tokenize", response_model=TokenizeReply, responses=errors(OpenAIError, *JSON_BODY_ERRORS, 404))
async def tokenize(request: Request, state: State, body: _TokenizeBody) -> Response:
    """Return the tokens of a prompt, or of a conversation as the model's template writes it."""
    model = await state.models.find_model(body.model or None)
    if isinstance(body, TokenizeChatRequest):
        caller = http_context(request).caller
        template = await request_template(body, model, caller, trusts_all=state.trust_request_chat_template)
        token_ids = list((await encode_chat(chat_ask(body, model), model, template)).token_ids)
    else:
        token_ids = await _encode(body, model)
    info = await state.models.model_info_if_any(model.model)
    result: dict[str, Any] = {
        "count": len(token_ids),
        "max_model_len": model.model.config.max_position if info is None else info.max_model_len,
        "tokens": token_ids,
        "token_strs": None,
    }
    if body.return_token_strs:
        result["token_strs"] = await asyncio.to_thread(lambda: [*map(model.tokenizer.token_text, token_ids)])
    return Response(orjson.dumps(result), media_type="application/json")


@router.post("/detokenize", response_model=DetokenizeReply, responses=errors(OpenAIError, *JSON_BODY_ERRORS, 404))
async def detokenize(state: State, body: Annotated[DetokenizeRequest, json_body(DetokenizeRequest)]) -> Response:
    """Return the text of tokens. Special tokens appear by name."""
    model = await state.models.find_model(body.model or None)
    model.check_token_ids(body.tokens, "tokens")
    text = await asyncio.to_thread(model.tokenizer.decode, body.tokens, skip_special_tokens=False)
    return Response(orjson.dumps({"prompt": text}), media_type="application/json")


async def _encode(body: TokenizePromptRequest, model: ServedModel) -> list[int]:
    return await model.encode_text(
        body.prompt,
        add_special_tokens=body.add_special_tokens is not False,
        max_tokens=max(MAX_TOKENS, model.max_window),
    )
