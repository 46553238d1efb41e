"""The endpoints for operators and load balancers: /health, /ping, /ready, /metrics, /queue and /version."""

import logging
from typing import Literal

from fastapi import APIRouter
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gateway.errors import GatewayError
from gateway.http.reply_models import SCHEDULER_ERRORS, OpenAIError, ReplyModel, errors
from gateway.state import GatewayState, State
from gateway.telemetry.scheduler_metrics import queue_object
from pagoda.distribution import VERSION

logger = logging.getLogger(__name__)

router = APIRouter(tags=["operations"], responses=errors(OpenAIError))


class HealthReply(ReplyModel):
    """The state of a process that is alive."""

    status: Literal["ok"]


class ReadyReply(ReplyModel):
    """The state of a server that can serve requests."""

    status: Literal["ready"]
    addresses: list[str] = Field(description="URLs on which the gateway listens.")


class NotReadyReply(ReplyModel):
    """The state of a server that cannot serve requests, and the reason."""

    status: Literal["not ready"]
    reason: str


class VersionReply(ReplyModel):
    """The server's version."""

    version: str


class TenantQueue(ReplyModel):
    """The sequences of one tenant that wait for a worker with one model."""

    model: str
    tenant: str
    num_waiting: int
    oldest_s: float = Field(description="Waiting time of the oldest sequence, in seconds.")
    next_position: int = Field(description="Position of the first sequence among all that wait, from 1.")


class QueueReply(ReplyModel):
    """The sequences that wait for a worker."""

    num_waiting: int = Field(description="Sequences that wait for a worker.")
    num_running: int = Field(description="Sequences that a worker computes.")
    wait_s: float | None = Field(
        description="Estimated wait of a new sequence, in seconds. Null while there is nothing to estimate it from."
    )
    queues: list[TenantQueue]


@router.get("/health", response_model=HealthReply)
async def health() -> Response:
    """Confirm that the process is alive. /ready says whether it can serve requests."""
    return JSONResponse({"status": "ok"})


@router.api_route("/ping", methods=["GET", "POST"], response_class=Response)
async def ping() -> Response:
    """Confirm that the process is alive. SageMaker uses this path."""
    return Response()


@router.get(
    "/ready",
    response_model=ReadyReply,
    responses={
        503: {
            "description": "The server cannot serve requests now.",
            "content": {"application/json": {"schema": NotReadyReply}},
        }
    },
)
async def ready(state: State) -> Response:
    """Confirm that the server can serve requests."""
    reason = await _why_not_ready(state)
    if reason is None:
        return JSONResponse({"status": "ready", "addresses": state.addresses})
    return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)


@router.get("/version", response_model=VersionReply)
async def version() -> Response:
    """Return the server's version."""
    return JSONResponse({"version": VERSION})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(state: State) -> Response:
    """Return the metrics in Prometheus' text format."""
    try:
        load = await state.schedulers.get_load()
    except GatewayError as error:
        logger.debug("scheduler metrics unavailable", extra={"reason": error.message})
        load = None
    return Response(state.metrics.exposition(load), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/queue", response_model=QueueReply, responses=errors(OpenAIError, *SCHEDULER_ERRORS))
async def queue(state: State) -> Response:
    """Return the sequences that wait for a worker, by model and tenant."""
    return JSONResponse(queue_object(await state.schedulers.get_load()))


async def _why_not_ready(state: GatewayState) -> str | None:
    if state.drain.begun:
        return "the gateway is shutting down"
    if state.schedulers.problem is not None:
        return state.schedulers.problem
    try:
        await state.models.refresh_infos()
        for model in state.models.named:
            await state.models.model_info(model.model)
    except GatewayError as error:
        return error.message
    return None
