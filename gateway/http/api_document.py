"""The document of both APIs (OpenAPI 3.1), built from the routes and from the schemas that they read their bodies with.

The routes read bodies by hand, which FastAPI cannot see: `reads` says what each one takes.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from gateway.http.schema import Schema

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
JSONObject = dict[str, Any]
_REFERENCE = "#/components/schemas/{model}"
_RESPONSES = {
    "200": {"description": "What the API's own documentation says of it."},
    "default": {"description": "An error, in the shape of the API that the path belongs to."},
}
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def reads(*schemas: type[Schema]) -> Callable[[Endpoint], Endpoint]:
    """Mark a route that takes a JSON body of one of these kinds; without any, a body of bytes."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["bodies"] = schemas
        return endpoint

    return mark


def api_document(routes: Iterable[BaseRoute], version: str) -> JSONObject:
    shown = [route for route in routes if isinstance(route, APIRoute) and route.include_in_schema]
    schemas = dict.fromkeys(schema for route in shown for schema in getattr(route.endpoint, "bodies", ()))
    references, definitions = models_json_schema(
        [(schema, "validation") for schema in schemas], ref_template=_REFERENCE
    )
    paths: JSONObject = {}
    for route in shown:
        contents = _contents(route, references)
        # HEAD is told only where there is no GET beside it.
        methods = route.methods or set()
        for method in sorted(methods - {"HEAD"} or methods):
            paths.setdefault(route.path_format, {})[method.lower()] = _operation(route, method, contents)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pagoda", "version": version},
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {})},
    }


def _contents(route: APIRoute, references: Any) -> JSONObject | None:
    """Return the kinds of body that the route takes, or None for a route that takes none."""
    bodies: Sequence[type[Schema]] | None = getattr(route.endpoint, "bodies", None)
    if bodies is None:
        return None
    kinds = [references[schema, "validation"] for schema in bodies]
    return {"application/json": {"schema": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}} if kinds else _BYTES


def _operation(route: APIRoute, method: str, contents: JSONObject | None) -> JSONObject:
    names = re.findall(r"{(\w+)}", route.path_format)
    operation: JSONObject = {
        "operationId": f"{method.lower()}_{route.name}",
        "description": inspect.getdoc(route.endpoint) or "",
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names],
        "responses": _RESPONSES,
    }
    if contents is not None and method != "HEAD":
        operation["requestBody"] = {"required": True, "content": contents}
    return operation
