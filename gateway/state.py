"""What the routes share, and how they get at it. One of these per app."""

from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import Request

from gateway.bodies import SchemaT, read_object
from gateway.drain import Drain
from gateway.errors import ErrorKind, GatewayError
from gateway.generation import HTTPContext, TextGenerator
from gateway.metrics import GatewayMetrics
from gateway.pulls import Pulls
from gateway.schedulers import Schedulers
from gateway.served_models import ServedModel, ServedModels
from pagoda.models.blobs import BlobStore
from pagoda.models.library import ModelLibrary
from pagoda.models.store import ModelStore


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayState:
    schedulers: Schedulers
    models: ServedModels
    generator: TextGenerator
    metrics: GatewayMetrics
    drain: Drain
    store: ModelStore
    blobs: BlobStore
    pulls: Pulls
    max_body_bytes: int
    started_at: float
    """Unix time."""
    addresses: list[str] = field(default_factory=list)
    """Where the process listens, once it does."""

    @property
    def library(self) -> ModelLibrary:
        return ModelLibrary(self.store, self.blobs)

    def find(self, name: str | None) -> ServedModel:
        """The served model of this name; for one that is only stored, an error that says how to serve it."""
        try:
            return self.models.find(name)
        except GatewayError:
            if not name or not self.library.has(name):
                raise
        served = ", ".join(f"`{model.name}`" for model in self.models)
        raise GatewayError(
            ErrorKind.NOT_FOUND,
            f"The model `{name}` is on this machine, but this server serves {served}. "
            f"To serve it, start another: pagoda serve --model {name}",
            param="model",
        )

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
