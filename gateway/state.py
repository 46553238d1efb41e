"""What the routes share, and how they get at it. One of these per app."""

import logging
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import Request

from gateway.bodies import SchemaT, read_object
from gateway.drain import Drain
from gateway.errors import InvalidRequestError
from gateway.generation import HTTPContext, TextGenerator
from gateway.metrics import GatewayMetrics
from gateway.placement import Placement
from gateway.pulls import Pulls
from gateway.reply_notes import IGNORED_HEADER, TRUNCATED_HEADER, notes_of
from gateway.schedulers import Schedulers
from gateway.served_models import ServedModels
from pagoda.models.blobs import BlobStore
from pagoda.models.library import ModelLibrary
from pagoda.models.store import ModelStore
from pagoda.sampling_defaults import SamplingPolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayState:
    schedulers: Schedulers
    placement: Placement
    models: ServedModels
    generator: TextGenerator
    metrics: GatewayMetrics
    drain: Drain
    store: ModelStore
    blobs: BlobStore
    pulls: Pulls
    library: ModelLibrary
    sampling_policy: SamplingPolicy
    max_body_bytes: int
    strict_fields: bool
    trust_request_chat_template: bool
    started_at: float
    """Unix time."""
    addresses: list[str] = field(default_factory=list)
    """Where the process listens, once it does."""

    async def read_body(self, request: Request, schema: type[SchemaT]) -> SchemaT:
        return self.parse(request, schema, await self.read_object(request))

    def parse(self, request: Request, schema: type[SchemaT], body: dict[str, Any]) -> SchemaT:
        """Unknown fields are refused, or left out and named in the response's header and in the log."""
        if unknown := schema.unknown_fields(body):
            if self.strict_fields:
                raise InvalidRequestError(f"{unknown[0]}: unknown field", param=unknown[0])
            self._note(request, IGNORED_HEADER, ", ".join(unknown), "fields ignored")
        return schema.parse(body)

    def note_truncation(self, request: Request, what: str) -> None:
        """Say in the response's header and in the log what was left out of a prompt that outgrew the window."""
        self._note(request, TRUNCATED_HEADER, what, "prompt truncated")

    @staticmethod
    def _note(request: Request, header: str, value: str, event: str) -> None:
        notes_of(request.scope)[header] = value
        extra = {"request_id": request.state.request_id, "path": request.url.path[:200], "what": value}
        logger.info(event, extra=extra)

    async def read_object(self, request: Request) -> dict[str, Any]:
        """For routes whose schema depends on what is in the body."""
        return await read_object(request, max_bytes=self.max_body_bytes)


def state_of(request: Request) -> GatewayState:
    return cast(GatewayState, request.app.state.gateway)


def http_context(request: Request) -> HTTPContext:
    state = request.state
    return HTTPContext(request_id=state.request_id, caller=state.caller, trace=state.trace)
