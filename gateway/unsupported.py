"""Routes that exist in the APIs but not in Pagoda. Each is answered with an error that names the missing feature.

The status is 404, since clients retry after a 501. These routes are not in the API document.
"""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.errors import ErrorKind, GatewayError

_EMBEDDINGS = "Embeddings are not supported yet; this server generates text: /v1/chat/completions or /api/chat."
_COMPACTION = "Compaction is not supported. Send `truncation: auto`, or summarize the conversation with the model."
_AUDIO = "Audio is not supported; this server generates text."
_IMAGES = "Images are not supported; this server generates text."
_RANKING = "Scoring, reranking and classification are not supported; this server generates text."
_FILES = "Files and batches are not supported. Send the requests one by one; the server batches them."
_ACCOUNT = "This server has no accounts and no cloud behind it."

_REFUSALS = {
    "/v1/embeddings": _EMBEDDINGS,
    "/api/embed": _EMBEDDINGS,
    "/api/embeddings": _EMBEDDINGS,
    "/v1/responses/compact": _COMPACTION,
    "/v1/responses/input_tokens": "Counting the tokens of a response's input is not supported; use /tokenize.",
    "/v1/conversations": "Conversations are not supported; use `previous_response_id` of /v1/responses.",
    "/v1/messages/batches": _FILES,
    "/v1/messages/batches/{id:path}": _FILES,
    "/v1/audio/{kind}": _AUDIO,
    "/v1/images/{kind}": _IMAGES,
    "/v1/moderations": "Moderation is not supported; this server generates text.",
    "/v1/files": _FILES,
    "/v1/batches": _FILES,
    "/v1/assistants": "Assistants and threads are not supported; use /v1/chat/completions.",
    "/v1/threads": "Assistants and threads are not supported; use /v1/chat/completions.",
    "/v1/fine_tuning/jobs": "Fine-tuning is not supported.",
    "/v1/load_lora_adapter": "Adapters are not supported yet.",
    "/v1/unload_lora_adapter": "Adapters are not supported yet.",
    "/v1/score": _RANKING,
    "/v1/rerank": _RANKING,
    "/score": _RANKING,
    "/rerank": _RANKING,
    "/classify": _RANKING,
    "/pooling": _EMBEDDINGS,
    "/api/push": "Pushing is not supported: there is no registry to push to. Copy the model's files instead.",
    "/api/me": _ACCOUNT,
    "/api/signout": _ACCOUNT,
    "/api/experimental/web_search": _ACCOUNT,
    "/api/experimental/web_fetch": _ACCOUNT,
}

router = APIRouter(include_in_schema=False)


def _refuse(sentence: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        raise GatewayError(ErrorKind.ROUTE_UNSUPPORTED, sentence)

    return refuse


for _path, _sentence in _REFUSALS.items():
    router.add_api_route(_path, _refuse(_sentence), methods=["GET", "POST"])
