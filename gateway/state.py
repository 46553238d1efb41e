"""What the routes share, and how they reach it. There is one of these per app."""

from dataclasses import dataclass, field
from typing import cast

from fastapi import Request

from gateway.answers.generation import TextGenerator
from gateway.http.bodies import BodyReader
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
    schedulers: Schedulers
    placement: Placement
    models: ServedModels
    generator: TextGenerator
    metrics: GatewayMetrics
    drain: Drain
    bodies: BodyReader
    store: ModelStore
    blobs: BlobStore
    pulls: Pulls
    model_editor: ModelEditor
    sampling_policy: SamplingPolicy
    comment_interval_s: float
    """No stream of server-sent events is silent for longer."""
    trust_request_chat_template: bool
    started_at: float
    """Unix time."""
    addresses: list[str] = field(default_factory=list)
    """Where the process listens, once it does."""


def state_of(request: Request) -> GatewayState:
    return cast(GatewayState, request.app.state.gateway)
