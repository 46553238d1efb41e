"""The base of the models that document replies, the models of errors, and the entries that routes pass as `responses`.

Handlers build their replies by hand, as dicts or bytes. These models only go into the API document, and tests validate replies
against it.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Responses = dict[int | str, dict[str, Any]]

EVENT_STREAM = "text/event-stream"
NDJSON = "application/x-ndjson"

JSON_BODY_ERRORS = (400, 413, 415)
"""Statuses with which a JSON body can be refused."""
SCHEDULER_ERRORS = (501, 504)
"""Statuses with which a scheduler's failure is answered, besides those of every route."""
GENERATION_ERRORS = (*JSON_BODY_ERRORS, *SCHEDULER_ERRORS, 404, 429, 502)
"""Statuses with which a request for text can fail, besides those of every route."""

_COMMON_ERRORS = (401, 403, 408, 431, 500, 503)
_ERROR_CAUSES = {
    400: "The request is not valid. The error names the field.",
    401: "The API key is missing or unknown.",
    403: "The API key lacks the required scope, the `Origin` or `Host` is not allowed, or a model is gated or private.",
    404: "There is no such model or file.",
    408: "The request did not arrive in time.",
    409: "The model is being served and cannot be changed.",
    413: "The request body is larger than the limit.",
    415: "The request body has an unsupported `Content-Encoding`.",
    429: "The server is overloaded. Retry after the time in `Retry-After`.",
    431: "The request line and headers are larger than the limit.",
    500: "The server failed.",
    501: "A scheduler does not support the request.",
    502: "The source of a model did not deliver it.",
    503: "The server or the model is not available. Retry after the time in `Retry-After`, if there is one.",
    504: "The request did not finish in time.",
}
_RETRY_AFTER = {
    "retry-after": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


class ReplyModel(BaseModel):
    """A JSON object of a reply. It has the listed fields and no others."""

    # Nothing is validated against these models at run time, so pydantic need not compile them at import. Their fields have no
    # docstrings, since pydantic would have to read the source files for those at import.
    model_config = ConfigDict(extra="forbid", defer_build=True)


def optional(description: str | None = None, *, alias: str | None = None) -> Any:
    """Return the default of a field that some replies do not have. `alias` is its name if that is no name in Python."""
    return Field(default_factory=lambda: None, description=description, alias=alias)


class SamplingDefault(ReplyModel):
    """A sampling parameter that holds when a request leaves it open."""

    value: float | int | list[str]
    source: Literal["modelfile", "server", "catalogue", "generation_config.json", "gguf", "api"] = Field(
        description="Origin of the value. `api` is the API's own default."
    )


class OpenAIErrorDetails(ReplyModel):
    """The description of an error in OpenAI's API."""

    message: str
    type: str
    param: str | None = Field(description="The field of the request that is at fault.")
    code: str | None


class OpenAIError(ReplyModel):
    """An error of OpenAI's API, and of all paths outside `/api`."""

    error: OpenAIErrorDetails


class OllamaError(ReplyModel):
    """An error of Ollama's API."""

    error: str


def errors(model: type[ReplyModel], *statuses: int) -> Responses:
    """Document these error statuses, and those that every route can answer with."""
    content = {"application/json": {"schema": model}}
    described: Responses = {}
    for status in sorted({*statuses, *_COMMON_ERRORS}):
        described[status] = {"description": _ERROR_CAUSES[status], "content": content}
        if status in (429, 503):
            described[status]["headers"] = _RETRY_AFTER
    return described | {"default": {"description": "Any other error.", "content": content}}


def streams(
    media_type: str, *item_models: type[ReplyModel], default: bool = False, named_events: bool = False
) -> Responses:
    """Document a stream beside the whole reply. Each event or line holds one object of these models.

    `default`: the reply is a stream unless the request says `"stream": false`. `named_events`: the name of each event is the type
    of its object, and no event marks the end.
    """
    choice = "a stream unless `stream` is false" if default else "a stream if `stream` is true"
    if media_type != EVENT_STREAM:
        item = "line is one JSON object"
    elif named_events:
        item = "event has one JSON object, and the name of its type"
    else:
        item = "event has one JSON object; the last event is `[DONE]`"
    return {
        200: {
            "description": f"The whole reply, or {choice}. In a stream each {item}.",
            "content": {media_type: {"schema": item_models}},
        }
    }


def referenced_models(responses: Mapping[int | str, Mapping[str, Any]]) -> dict[str, type[ReplyModel]]:
    """Return the models that `errors` and `streams` have put into these responses, by name."""
    contents = [content for response in responses.values() for content in response.get("content", {}).values()]
    schemas = [content.get("schema") for content in contents]
    models = [model for schema in schemas for model in (schema if isinstance(schema, tuple) else (schema,))]
    return {model.__name__: model for model in models if isinstance(model, type)}
