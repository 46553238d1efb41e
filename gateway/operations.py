"""What operators and load balancers ask: /health, /ping, /ready, /metrics, /queue, /version."""

import logging

from fastapi import APIRouter, Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import JSONResponse, Response

from gateway.errors import GatewayError
from gateway.state import GatewayState, state_of
from gateway.telemetry.scheduler_metrics import queue_object
from pagoda.distribution import VERSION

logger = logging.getLogger(__name__)

router = APIRouter()


@router.get("/health")
async def health() -> Response:
    """Live: the process answers. Whether it can serve is /ready's question."""
    return JSONResponse({"status": "ok"})


@router.api_route("/ping", methods=["GET", "POST"])
async def ping() -> Response:
    """/health by the name that SageMaker asks for."""
    return Response()


@router.get("/ready")
async def ready(request: Request) -> Response:
    state = state_of(request)
    reason = await _why_not_ready(state)
    if reason is None:
        return JSONResponse({"status": "ready", "addresses": state.addresses})
    return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)


@router.get("/version")
async def version() -> Response:
    return JSONResponse({"version": VERSION})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    state = state_of(request)
    try:
        load = await state.schedulers.get_load()
    except GatewayError as error:
        logger.debug("scheduler has no metrics", extra={"reason": error.message})
        load = None
    return Response(state.metrics.exposition(load), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/queue")
async def queue(request: Request) -> Response:
    """Who waits for a worker, by model and tenant."""
    return JSONResponse(queue_object(await state_of(request).schedulers.get_load()))


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
