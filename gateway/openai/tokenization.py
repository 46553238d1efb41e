"""vLLM's endpoints beside OpenAI's for the texts' tokens: /tokenize and /detokenize."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.http.api_document import reads
from gateway.models.served_model import ServedModel
from gateway.openai.prompts import conversation_of
from gateway.openai.schemas import DetokenizeRequest, TokenizeChatRequest, TokenizePromptRequest
from gateway.state import state_of

router = APIRouter()

MAX_TOKENS = 1 << 18
"""A text of more tokens is refused, unless the model's window is longer."""


@router.post("/tokenize")
@reads(TokenizePromptRequest, TokenizeChatRequest)
async def tokenize(request: Request) -> Response:
    """Of a prompt, or of a conversation as the model's template writes it."""
    state = state_of(request)
    body = await state.bodies.read_body_as(request, _schema)
    model = await state.models.find_model(body.model or None)
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


@router.post("/detokenize")
@reads(DetokenizeRequest)
async def detokenize(request: Request) -> Response:
    """Special tokens by their names: what /tokenize would have to be told to write them."""
    state = state_of(request)
    body = await state.bodies.read_body(request, DetokenizeRequest)
    model = await state.models.find_model(body.model or None)
    model.check_token_ids(body.tokens, "tokens")
    text = await asyncio.to_thread(model.tokenizer.decode, body.tokens, skip_special_tokens=False)
    return Response(orjson.dumps({"prompt": text}), media_type="application/json")


def _schema(body: Mapping[str, Any]) -> type[TokenizeChatRequest | TokenizePromptRequest]:
    return TokenizeChatRequest if "messages" in body else TokenizePromptRequest


async def _encode(body: TokenizeChatRequest | TokenizePromptRequest, model: ServedModel) -> list[int]:
    if isinstance(body, TokenizeChatRequest):
        return await model.encode_chat(conversation_of(body, model))
    return await model.encode_text(
        body.prompt,
        add_special_tokens=body.add_special_tokens is not False,
        max_tokens=max(MAX_TOKENS, model.max_window),
    )
