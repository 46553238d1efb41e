"""The API document at /openapi.json, and the page at /docs that shows it with Swagger UI.

FastAPI's own page loads its scripts from another host. This page loads them from this server, which has them from the package
fastapi-offline. Its content security policy forbids the browser to load anything from elsewhere. Its addresses are relative, so
that it works behind a path prefix.
"""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)


def add_docs(app: FastAPI, title: str, document: Callable[[], dict[str, Any]]) -> None:
    """Add /openapi.json, /docs and the files that /docs loads to an app without docs of its own."""

    @cache
    def encode_document() -> bytes:
        return orjson.dumps(document())

    async def openapi_json(request: Request) -> Response:
        # Making the document takes about 0.1 s of processor time. In a thread it does not interrupt streams.
        return Response(await asyncio.to_thread(encode_document), media_type="application/json")

    async def page(request: Request) -> Response:
        response = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=title,
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},  # would send the document's address to another host
        )
        response.headers["content-security-policy"] = _POLICY
        return response

    app.add_route("/openapi.json", openapi_json, include_in_schema=False)
    app.add_route("/docs", page, include_in_schema=False)
    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))
