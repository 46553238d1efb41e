"""The state that all routes of an app share, and the dependency that gives it to them."""

from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from gateway.answers.generation import TextGenerator
from gateway.constraints.compiler import GrammarCompiler
from gateway.http.drain import Drain
from gateway.models.pulls import Pulls
from gateway.models.served_models import ServedModels
from gateway.telemetry.metrics import GatewayMetrics
from gateway.upstream.placement import Placement
from gateway.upstream.schedulers import Schedulers
from pagoda.models.blobs import BlobStore
from pagoda.models.model_editor import ModelEditor
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.models.store import ModelStore


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayState:
    """The objects that the routes of one app share."""

    schedulers: Schedulers
    placement: Placement
    models: ServedModels
    generator: TextGenerator
    grammars: GrammarCompiler
    metrics: GatewayMetrics
    drain: Drain
    store: ModelStore
    blobs: BlobStore
    pulls: Pulls
    model_editor: ModelEditor
    sampling_policy: SamplingPolicy
    comment_interval_s: float
    """Longest silence of a stream of server-sent events, in seconds."""
    trust_request_chat_template: bool
    started_at: float
    """Unix time, in seconds."""
    addresses: list[str] = field(default_factory=list)
    """URLs on which the process listens; empty until it does."""


async def state_of(request: Request) -> GatewayState:  # async: FastAPI would run a plain function in a thread
    """Return the state of the request's app."""
    return cast(GatewayState, request.app.state.gateway)


State = Annotated[GatewayState, Depends(state_of)]
"""The parameter of a handler that uses the state."""
