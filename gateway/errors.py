"""The errors of the gateway, and the table from gRPC statuses to HTTP statuses and to the error bodies of each API.

GatewayError
├── InvalidRequestError      a mistake of the client; names the field
│   └── PromptTooLongError   names the prompt's length and the window
└── (any other row of the table, by its kind)
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from math import ceil
from typing import Any

from grpc import StatusCode
from starlette.responses import JSONResponse

from pagoda.models.errors import (
    ModelAccessError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    ModelOwnerError,
    ModelStoreError,
    without_directories,
)


@dataclass(frozen=True, slots=True)
class _Row:
    http_status: int
    openai_type: str
    openai_code: str | None
    grpc_status: StatusCode | None


class ErrorKind(Enum):
    """The table: HTTP status, OpenAI's `type` and `code`, and the gRPC status that is mapped to this error."""

    INVALID_REQUEST = _Row(400, "invalid_request_error", None, StatusCode.INVALID_ARGUMENT)
    UNAUTHORIZED = _Row(401, "authentication_error", "invalid_api_key", StatusCode.UNAUTHENTICATED)
    FORBIDDEN = _Row(403, "permission_error", None, StatusCode.PERMISSION_DENIED)
    NOT_FOUND = _Row(404, "not_found_error", "model_not_found", StatusCode.NOT_FOUND)
    ROUTE_NOT_FOUND = _Row(404, "not_found_error", "unknown_url", None)
    ROUTE_UNSUPPORTED = _Row(404, "not_found_error", "unsupported_endpoint", None)
    METHOD_NOT_ALLOWED = _Row(405, "invalid_request_error", "method_not_allowed", None)
    TIMED_OUT = _Row(408, "invalid_request_error", "request_timeout", None)
    CONFLICT = _Row(409, "invalid_request_error", "conflict", None)
    BODY_TOO_LARGE = _Row(413, "invalid_request_error", "request_too_large", None)
    UNSUPPORTED_ENCODING = _Row(415, "invalid_request_error", "unsupported_content_encoding", None)
    HEADERS_TOO_LARGE = _Row(431, "invalid_request_error", "request_headers_too_large", None)
    TOO_MANY_CONNECTIONS = _Row(503, "server_error", "too_many_connections", None)
    OVERLOADED = _Row(429, "rate_limit_error", "overloaded", StatusCode.RESOURCE_EXHAUSTED)
    CLIENT_CLOSED = _Row(499, "invalid_request_error", "client_closed_request", StatusCode.CANCELLED)
    INTERNAL = _Row(500, "server_error", None, StatusCode.INTERNAL)
    UNIMPLEMENTED = _Row(501, "server_error", "not_implemented", StatusCode.UNIMPLEMENTED)
    BAD_SOURCE = _Row(502, "server_error", "bad_source", None)
    UNAVAILABLE = _Row(503, "server_error", "unavailable", StatusCode.UNAVAILABLE)
    DEADLINE_EXCEEDED = _Row(504, "server_error", "deadline_exceeded", StatusCode.DEADLINE_EXCEEDED)


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# With these details Anthropic's client continues without a thread: it sends the whole conversation.
_ANTHROPIC_DETAILS = {"thread": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}}


class Dialect(StrEnum):
    """One of the APIs. Each has its own form of error bodies."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    ANTHROPIC = "anthropic"


class GatewayError(Exception):
    """An error that a request is answered with.

    `retry_after_s` becomes the Retry-After header, rounded up to whole seconds.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.code = code or kind.value.openai_code
        self.retry_after_s = retry_after_s

    @property
    def http_status(self) -> int:
        return self.kind.value.http_status

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.kind is ErrorKind.ROUTE_UNSUPPORTED:
            headers["x-should-retry"] = "false"  # OpenAI's and Anthropic's clients read it
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, ceil(self.retry_after_s)))
        if self.kind is ErrorKind.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return headers


class InvalidRequestError(GatewayError):
    """A mistake of the client. `param` is the field at fault."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(ErrorKind.INVALID_REQUEST, message, param=param, code=code)


class PromptTooLongError(InvalidRequestError):
    """A prompt that leaves no room for an answer in the model's window."""

    def __init__(self, *, num_prompt_tokens: int, window: int, param: str, or_more: bool = False) -> None:
        """Take the prompt's length. `or_more`: the prompt is longer, since tokenizing ended at that length."""
        number = f"more than {num_prompt_tokens}" if or_more else f"{num_prompt_tokens}"
        super().__init__(
            f"This model's maximum context length is {window} tokens. However, your prompt contains {number} "
            f"tokens, which leaves no room for an answer. Please reduce the length of the prompt.",
            param=param,
            code="context_length_exceeded",
        )


def unavailable(message: str) -> GatewayError:
    """Return a 503 that invites the client to retry after a second."""
    return GatewayError(ErrorKind.UNAVAILABLE, message, retry_after_s=1.0)


_KIND_BY_GRPC_CODE = {kind.value.grpc_status.value[0]: kind for kind in ErrorKind if kind.value.grpc_status is not None}
_RETRYABLE = (ErrorKind.OVERLOADED, ErrorKind.UNAVAILABLE)


def from_grpc_code(code: int, message: str, retry_after_s: float | None = None) -> GatewayError:
    """Return the error for a scheduler's status (a google.rpc.Code). A code outside the table becomes an internal error."""
    kind, message = _KIND_BY_GRPC_CODE.get(code, ErrorKind.INTERNAL), without_directories(message)
    if kind in _RETRYABLE and retry_after_s is None:
        retry_after_s = 1.0
    return GatewayError(kind, message, retry_after_s=retry_after_s)


def from_model_error(error: ModelError) -> GatewayError:
    """Return the error for a failure of the store: an unknown name, files that are not a model, or a download that failed."""
    if isinstance(error, ModelNotFoundError):
        # Its message has only the name that the client sent, and addresses of sources.
        return GatewayError(ErrorKind.NOT_FOUND, str(error), param="model")
    message = without_directories(str(error))
    if isinstance(error, ModelOwnerError):
        return GatewayError(ErrorKind.CONFLICT, message, param="model")
    if isinstance(error, ModelFormatError):
        return InvalidRequestError(message, param="model")
    if isinstance(error, ModelAccessError):
        return GatewayError(ErrorKind.FORBIDDEN, message, param="model", code="model_access_denied")
    if isinstance(error, ModelStoreError):
        return GatewayError(ErrorKind.INTERNAL, message)
    return GatewayError(ErrorKind.BAD_SOURCE, message)


def dialect_of(path: str) -> Dialect:
    """Return the API that the path belongs to: Ollama's for `/` and /api, Anthropic's for /v1/messages, OpenAI's for the rest."""
    if path in ("/", "/api") or path.startswith("/api/"):
        return Dialect.OLLAMA
    return Dialect.ANTHROPIC if path == "/v1/messages" or path.startswith("/v1/messages/") else Dialect.OPENAI


def error_body(error: GatewayError, dialect: Dialect) -> dict[str, Any]:
    """Return the JSON object that the dialect has for the error."""
    if dialect is Dialect.OLLAMA:
        return {"error": error.message}
    if dialect is Dialect.ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(error.http_status, "api_error")
        details = {"details": _ANTHROPIC_DETAILS[error.param]} if error.param in _ANTHROPIC_DETAILS else {}
        return {"type": "error", "error": {"type": kind, "message": error.message, **details}}
    return {
        "error": {
            "message": error.message,
            "type": error.kind.value.openai_type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(path: str, error: GatewayError) -> JSONResponse:
    """Return the response for an error, in the form of the API that the path belongs to."""
    return JSONResponse(error_body(error, dialect_of(path)), status_code=error.http_status, headers=error.headers)
