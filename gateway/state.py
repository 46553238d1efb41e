"""What the routes share, and how they get at it. One of these per app."""

from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import Request

from gateway.bodies import SchemaT, read_object
from gateway.drain import Drain
from gateway.generation import HTTPContext, TextGenerator
from gateway.metrics import GatewayMetrics
from gateway.placement import Placement
from gateway.pulls import Pulls
from gateway.schedulers import Schedulers
from gateway.served_models import ServedModels
from pagoda.models.blobs import BlobStore
from pagoda.models.library import ModelLibrary
from pagoda.models.store import ModelStore


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
    max_body_bytes: int
    started_at: float
    """Unix time."""
    addresses: list[str] = field(default_factory=list)
    """Where the process listens, once it does."""

    async def read_body(self, request: Request, schema: type[SchemaT]) -> SchemaT:
        return schema.parse(await self.read_object(request))

    async def read_object(self, request: Request) -> dict[str, Any]:
        """For routes whose schema depends on what is in the body."""
        return await read_object(request, max_bytes=self.max_body_bytes)


def state_of(request: Request) -> GatewayState:
    return cast(GatewayState, request.app.state.gateway)


def http_context(request: Request) -> HTTPContext:
    state = request.state
    return HTTPContext(request_id=state.request_id, caller=state.caller, trace=state.trace)
