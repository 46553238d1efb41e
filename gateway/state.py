"""What the routes share, and how they get at it. One of these per app."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from fastapi import Request

from gateway.answers.generation import HTTPContext, TextGenerator
from gateway.errors import InvalidRequestError
from gateway.http.bodies import SchemaT, parse_object, read_json
from gateway.http.drain import Drain
from gateway.http.reply_notes import IGNORED_HEADER, TRUNCATED_HEADER, notes_of
from gateway.models.pulls import Pulls
from gateway.models.served_models import ServedModels
from gateway.telemetry.metrics import GatewayMetrics
from gateway.upstream.placement import Placement
from gateway.upstream.schedulers import Schedulers
from pagoda.models.blobs import BlobStore
from pagoda.models.model_editor import ModelEditor
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.models.store import ModelStore

MAX_INLINE_BYTES = 1 << 16
"""A body up to this length is parsed and validated within about 5 ms."""

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
    model_editor: ModelEditor
    sampling_policy: SamplingPolicy
    max_body_bytes: int
    max_body_values: int
    comment_interval_s: float
    """No stream of server-sent events is silent for longer."""
    strict_fields: bool
    trust_request_chat_template: bool
    started_at: float
    """Unix time."""
    addresses: list[str] = field(default_factory=list)
    """Where the process listens, once it does."""

    async def read_body(self, request: Request, schema: type[SchemaT]) -> SchemaT:
        return await self.read_body_as(request, lambda _: schema)

    async def read_body_as(self, request: Request, choose: Callable[[Mapping[str, Any]], type[SchemaT]]) -> SchemaT:
        """For routes whose schema depends on what is in the body.

        A long body is parsed in a thread: its Python validators let other threads run.
        """
        raw = await read_json(request, max_bytes=self.max_body_bytes, max_values=self.max_body_values)
        parse = partial(self._parse, request, raw, choose)
        return parse() if len(raw) <= MAX_INLINE_BYTES else await asyncio.to_thread(parse)

    def _parse(self, request: Request, raw: bytes, choose: Callable[[Mapping[str, Any]], type[SchemaT]]) -> SchemaT:
        """Unknown fields and those without effect are refused, or left out and named in the response's header and in the log."""
        body = parse_object(raw)
        schema = choose(body)
        if unknown := schema.unknown_fields(body):
            if self.strict_fields:
                raise InvalidRequestError(f"{unknown[0]}: unknown field", param=unknown[0])
            self._note(request, IGNORED_HEADER, ", ".join(unknown), "fields ignored")
        parsed = schema.parse(body)
        if without_effect := parsed.without_effect:
            if self.strict_fields:
                name = without_effect[0]
                raise InvalidRequestError(f"{name}: not supported with this value; leave it out", param=name)
            self._note(request, IGNORED_HEADER, ", ".join((*without_effect, *unknown)), "fields ignored")
        return parsed

    def note_truncation(self, request: Request, what: str) -> None:
        """Say in the response's header and in the log what was left out of a prompt that outgrew the window."""
        self._note(request, TRUNCATED_HEADER, what, "prompt truncated")

    @staticmethod
    def _note(request: Request, header: str, value: str, event: str) -> None:
        notes_of(request.scope)[header] = value
        extra = {"request_id": request.state.request_id, "path": request.url.path[:200], "what": value}
        logger.info(event, extra=extra)


def state_of(request: Request) -> GatewayState:
    return cast(GatewayState, request.app.state.gateway)


def http_context(request: Request) -> HTTPContext:
    state = request.state
    return HTTPContext(request_id=state.request_id, caller=state.caller, trace=state.trace)
