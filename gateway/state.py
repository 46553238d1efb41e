"""What the routes share, and how they get at it. One of these per app."""

from dataclasses import dataclass
from typing import Any, cast

from fastapi import Request

from gateway.bodies import SchemaT, read_object
from gateway.drain import Drain
from gateway.generation import HTTPContext, TextGenerator
from gateway.metrics import GatewayMetrics
from gateway.scheduler_client import SchedulerClient
from gateway.served_models import ServedModels


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayState:
    scheduler: SchedulerClient
    models: ServedModels
    generator: TextGenerator
    metrics: GatewayMetrics
    drain: Drain
    max_body_bytes: int
    started_at: float
    """Unix time."""

    async def read_body(self, request: Request, schema: type[SchemaT]) -> SchemaT:
        return schema.parse(await self.read_object(request))

    async def read_object(self, request: Request) -> dict[str, Any]:
        """For routes whose schema depends on what is in the body."""
        return await read_object(request, max_bytes=self.max_body_bytes)


def state_of(request: Request) -> GatewayState:
    return cast(GatewayState, request.app.state.gateway)


def http_context(request: Request) -> HTTPContext:
    headers = request.headers
    return HTTPContext(
        request_id=request.state.request_id,
        traceparent=headers.get("traceparent", ""),
        tracestate=headers.get("tracestate", ""),
    )
