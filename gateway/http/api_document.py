"""The document of all APIs (OpenAPI 3.1). FastAPI writes it; this module adds what FastAPI cannot see in the routes.

These are the request bodies, which our dependency reads (bodies.py), the models of streams and errors (reply_models.py), and
the API keys, which a middleware checks.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi.openapi.constants import REF_PREFIX
from fastapi.openapi.utils import get_openapi
from fastapi.params import Body
from fastapi.routing import APIRoute
from fastapi.utils import create_model_field
from starlette.routing import BaseRoute

from gateway.http.authorization import needed_scope
from gateway.http.bodies import JSONBody, stream_body
from gateway.http.reply_models import referenced_models
from pagoda.api_keys.key_file import Scope

JSONObject = dict[str, Any]

TITLE = "Pagoda"
DESCRIPTION = (
    "OpenAI's API and Ollama's API on one server. Fields that are accepted but ignored are named in the response header "
    "`X-Pagoda-Ignored`. Every response has an `X-Request-ID`."
)
TAGS = [
    {"name": "OpenAI", "description": "OpenAI's API with vLLM's additions. Errors have OpenAI's form."},
    {"name": "Ollama", "description": "Ollama's API. Errors have Ollama's form."},
    {"name": "Anthropic", "description": "Anthropic's Messages API. Errors have Anthropic's form."},
    {"name": "operations", "description": "Health, metrics and queues, for operators and load balancers."},
]
_SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key. Needed if the server was started with API keys.",
    },
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key in its own header.",
    },
}


def api_document(routes: Iterable[BaseRoute], version: str) -> JSONObject:
    """Return the OpenAPI document of the routes."""
    shown = (route for route in routes if isinstance(route, APIRoute) and route.include_in_schema)
    operations = [operation for route in shown for operation in _operations(route)]
    document = get_openapi(title=TITLE, version=version, description=DESCRIPTION, tags=TAGS, routes=operations)
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    document["security"] = [{name: []} for name in _SECURITY_SCHEMES]
    for path, by_method in document["paths"].items():
        for operation in by_method.values():
            _document_key(operation, needed_scope(path))
    return document


def _operations(route: APIRoute) -> Iterator[APIRoute]:
    """Yield a copy of the route for each of its methods, with everything that FastAPI needs for the document.

    HEAD has an operation only if the route has no GET.
    """
    methods = route.methods or set()
    for number, method in enumerate(sorted(methods - {"HEAD"} or methods)):
        operation = copy.copy(route)
        operation.methods = {method}
        operation.operation_id = "_".join(
            [str(route.tags[0]).lower(), route.name, *([method.lower()] if number else [])]
        )
        operation.body_field = _body_field(route)
        models = referenced_models(route.responses)
        # FastAPI collects the schemas of all these fields, regardless of their keys.
        operation.response_fields = route.response_fields | {
            name: create_model_field(name=name, type_=model, mode="serialization") for name, model in models.items()
        }
        operation.responses = dict(
            sorted(_with_references(route.responses).items(), key=lambda response: str(response[0]))
        )
        yield operation


def _body_field(route: APIRoute) -> Any:
    """Return the field that describes the request body, or None for a route without one."""
    for dependency in route.dependant.dependencies:
        if isinstance(dependency.call, JSONBody):
            kind = dependency.call.annotation
            return create_model_field(name="body", type_=kind, field_info=Body(annotation=kind))
        if dependency.call is stream_body:
            field_info = Body(annotation=bytes, media_type="application/octet-stream")
            return create_model_field(name="body", type_=bytes, field_info=field_info)
    return None


def _with_references(value: Any) -> Any:
    """Return the responses with references in place of models; a tuple of models is a choice between them."""
    if isinstance(value, dict):
        return {name: _with_references(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return {"anyOf": [_with_references(each) for each in value]}
    return {"$ref": f"{REF_PREFIX}{value.__name__}"} if isinstance(value, type) else value


def _document_key(operation: JSONObject, scope: Scope | None) -> None:
    if scope is None:
        operation["security"] = []
        operation["responses"].pop("401", None)
    elif scope is Scope.ADMIN:
        operation["description"] = (
            f"{operation.get('description', '')}\n\nNeeds an API key with the scope `{scope}`.".strip()
        )
