"""An ASGI middleware that validates every reply of a gateway against the gateway's own API document.

The document must name the operation, the status, the media type and every field. Replies outside any operation, such as that to an
unknown path, must be errors in the form of the path's API.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema_rs
import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.app import document
from gateway.errors import Dialect, dialect_of

UNSEEN = 499
"""The status of a request whose client has left. The reply is never received."""
PAGES = re.compile(r"/docs(/.*)?|/openapi\.json")
SSE_COMMENT, SSE_EVENT, SSE_DATA, SSE_DONE = b":", b"event: ", b"data: ", b"data: [DONE]"

violations: list[str] = []
"""Deviations from the document in the replies of this process. A fixture fails the test that caused them."""


class DocumentedReplies:
    """An app that adds to `violations` what the replies of another app have and the document does not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = Reply(scope)

        async def send_checked(message: Message) -> None:
            reply.add_message(message)
            violations.extend(f"{reply}: {problem}" for problem in reply_validator().problems(reply))
            await send(message)

        await self._app(scope, receive, send_checked)


@cache
def reply_validator() -> "ReplyValidator":
    """Return the validator for the gateway's document."""
    return ReplyValidator(document())


class Reply:
    """The part of a reply that has been sent."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope  # the gateway's middlewares change the path in place
        self._unread = b""
        self._is_complete = False
        self.status = 0
        self.media_type = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path} -> {self.status} {self.media_type}"

    @property
    def method(self) -> str:
        return str(self._scope["method"]).lower()

    @property
    def path(self) -> str:
        return str(self._scope["path"])

    def add_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.media_type = Headers(raw=message["headers"]).get("content-type", "").partition(";")[0]
        else:
            self._unread += message.get("body", b"")
            self._is_complete = not message.get("more_body", False)

    def read_parts(self) -> Iterator[bytes]:
        """Yield the parts that have become complete: events, lines, or the whole body."""
        separator = {"text/event-stream": b"\n\n", "application/x-ndjson": b"\n"}.get(self.media_type)
        if separator is not None:
            *parts, self._unread = self._unread.split(separator)
            yield from parts
        elif self._is_complete:
            yield self._unread
            self._unread = b""


class ReplyValidator:
    """The schemas of a document, for the replies that it describes."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._paths = {
            re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(path))): operations
            # A longer path comes first, since a parameter of a shorter one may be a path itself.
            for path, operations in sorted(document["paths"].items(), key=lambda each: -len(each[0]))
        }
        self._schema = cache(self._compile)

    def problems(self, reply: Reply) -> Iterator[str]:
        """Yield what the document does not say of the parts that the reply has had since the last call."""
        for part in reply.read_parts():
            if reply.status == UNSEEN or (reply.status < 400 and PAGES.fullmatch(reply.path)):
                continue
            operation = self._operation(reply)
            if operation is not None:
                yield from self._operation_problems(operation, reply, part)
            elif reply.status >= 400:
                yield from self._error_problems(reply, part)
            elif reply.method != "options" and reply.status // 100 != 3:
                yield "the document has no such operation"

    def _operation(self, reply: Reply) -> Mapping[str, Any] | None:
        path = reply.path.rstrip("/") or "/"
        for pattern, operations in self._paths.items():
            if pattern.fullmatch(path):
                found = operations.get(reply.method) or (operations.get("get") if reply.method == "head" else None)
                return found if found or reply.status >= 400 else None
        return None

    def _operation_problems(self, operation: Mapping[str, Any], reply: Reply, part: bytes) -> Iterator[str]:
        response = operation["responses"].get(str(reply.status))
        if response is None:
            yield f"the document has no such status: {part[:200]!r}"
            return
        contents = response.get("content", {})
        if not contents and not part:
            return
        if reply.media_type not in contents:
            yield f"the document has no such media type: {part[:200]!r}"
            return
        yield from self._part_problems(contents[reply.media_type]["schema"], reply, part)

    def _error_problems(self, reply: Reply, part: bytes) -> Iterator[str]:
        models = {
            Dialect.OPENAI: "OpenAIError",
            Dialect.OLLAMA: "OllamaError",
            Dialect.ANTHROPIC: "AnthropicError",
        }
        schema = {"$ref": f"#/components/schemas/{models[dialect_of(reply.path)]}"}
        yield from self._part_problems(schema, reply, part)

    def _part_problems(self, schema: Mapping[str, Any], reply: Reply, part: bytes) -> Iterator[str]:
        instance: Any
        if reply.media_type.startswith("text/") and reply.media_type != "text/event-stream":
            instance = part.decode()
        elif part.startswith(SSE_COMMENT) or part == SSE_DONE:
            return
        else:
            name, part = part.split(b"\n", 1) if part.startswith(SSE_EVENT) else (b"", part)
            try:
                instance = orjson.loads(part.removeprefix(SSE_DATA))
            except orjson.JSONDecodeError as reason:
                yield f"not JSON ({reason}): {part[:400]!r}"
                return
            if name and name != SSE_EVENT + instance["type"].encode():
                yield f"an event of another name than its type: {name!r}"
        for error in self._schema(orjson.dumps(schema)).iter_errors(instance):
            yield f"{error.message} at {'.'.join(map(str, error.instance_path)) or 'the top'}: {part[:400]!r}"

    def _compile(self, schema: bytes) -> jsonschema_rs.Draft202012Validator:
        return jsonschema_rs.Draft202012Validator({**orjson.loads(schema), "components": self._document["components"]})
