"""The gateway's HTTP application: the routes, the middlewares and the shared state.

FastAPI routes the requests, resolves the handlers' dependencies and documents the API. Request bodies are read by dependencies of
ours (http/bodies.py), since FastAPI's have no limits.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from opentelemetry.trace import NoOpTracer, Tracer
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from gateway import operations, unsupported
from gateway.answers.generation import TextGenerator
from gateway.anthropic import routes as anthropic
from gateway.constraints.compiler import GrammarCompiler
from gateway.errors import ErrorKind, GatewayError, error_response, from_model_error
from gateway.http.api_document import TITLE, JSONObject, api_document
from gateway.http.authorization import RequireKey
from gateway.http.bodies import BodyReader
from gateway.http.docs_page import add_docs
from gateway.http.drain import Drain
from gateway.http.middleware import CountInProgress, RequestContext
from gateway.http.origins import AllowedOrigins, LocalHostsOnly
from gateway.models.pull_on_demand import PullOnDemand
from gateway.models.pulls import Pulls
from gateway.models.served_model import ServedModel
from gateway.models.served_models import ServedModels
from gateway.ollama import routes as ollama
from gateway.ollama import store_routes
from gateway.openai import routes as openai
from gateway.openai import tokenization
from gateway.prompts.template_renderer import shared_renderer
from gateway.responses import routes as responses
from gateway.responses.background import BackgroundRuns
from gateway.responses.open_store import open_response_store
from gateway.responses.service import ResponseService
from gateway.responses.store import StoreLimits
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from gateway.telemetry.metrics import GatewayMetrics
from gateway.telemetry.scheduler_metrics import SchedulerMetrics
from gateway.telemetry.tracing import TraceRequests
from gateway.upstream.placement import Placement
from gateway.upstream.prefix_hints import PrefixHints
from gateway.upstream.scheduler_client import SchedulerClient
from gateway.upstream.schedulers import Schedulers
from kvcache.open_index import open_prefix_index
from pagoda.distribution import VERSION
from pagoda.models.blobs import BlobStore
from pagoda.models.catalogue import CATALOGUE, CatalogueEntry
from pagoda.models.chat_template_choice import read_template_file
from pagoda.models.errors import ChatTemplateChoiceError, ModelError
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.pull import ModelPuller
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.models.store import ModelStore
from pagoda.process.background import end_tasks, keep_running

ROUTERS = (
    operations.router,
    openai.router,
    tokenization.router,
    anthropic.router,
    responses.router,
    ollama.router,
    store_routes.router,
    unsupported.router,
)

# Uptime checks send HEAD, so each route that answers GET also answers HEAD. The server leaves out the body.
for _router in ROUTERS:
    for _route in _router.routes:
        if isinstance(_route, APIRoute) and _route.methods and "GET" in _route.methods:
            _route.methods.add("HEAD")

TIDY_INTERVAL_S = 600.0


def create_app(
    settings: GatewaySettings,
    models: Sequence[Model],
    *,
    catalogue: Sequence[CatalogueEntry] = CATALOGUE,
    tracer: Tracer | None = None,
) -> FastAPI:
    """Load the models' tokenizers and templates, and return the app. It connects to the schedulers when it starts."""
    shared_renderer().start_first_process()
    policy = SamplingPolicy(
        mode=settings.sampling_defaults, max_tokens=settings.default_max_tokens, catalogue=catalogue
    )
    template = read_template_file(settings.chat_template) if settings.chat_template else None
    served = [ServedModel.load(model, policy, template) for model in models]
    if template is not None and (problem := served[0].template_problem):
        raise ChatTemplateChoiceError(f"the chat template {settings.chat_template} cannot be used: {problem}")
    state = _build_state(settings, served, ModelStore(settings.home, catalogue=catalogue), policy)
    app = FastAPI(title=TITLE, lifespan=_lifespan, openapi_url=None)
    add_docs(app, TITLE, document)
    app.state.gateway = state
    app.state.bodies = BodyReader(
        max_bytes=settings.max_body_bytes,
        max_values=settings.max_body_values,
        strict_fields=settings.strict_fields,
    )
    app.state.responses = _build_responses(settings, state)
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(GatewayError, _on_gateway_error)
    app.add_exception_handler(ModelError, _on_model_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    # The middleware that is added last is the outermost.
    app.add_middleware(CountInProgress, drain=state.drain)
    app.add_middleware(RequireKey, keyring=settings.keyring(open_without_keys=settings.is_on_loopback))
    app.add_middleware(AllowedOrigins, more=settings.origins)
    if settings.is_on_loopback:
        app.add_middleware(LocalHostsOnly, more=settings.hosts)
    app.add_middleware(TraceRequests, tracer=tracer or NoOpTracer())
    app.add_middleware(RequestContext, metrics=state.metrics, drain=state.drain)
    return app


@cache
def document() -> JSONObject:
    """Return the OpenAPI document of all APIs. It is made when it is first needed, to keep the start fast."""
    return api_document([route for router in ROUTERS for route in router.routes], VERSION)


def _build_state(
    settings: GatewaySettings, served: Sequence[ServedModel], store: ModelStore, policy: SamplingPolicy
) -> GatewayState:
    schedulers = _build_schedulers(settings)
    placement = Placement(schedulers, PrefixHints(open_prefix_index(settings.prefix_index.get_secret_value())))
    blobs = BlobStore(settings.home)
    model_editor = ModelEditor(store, blobs, ServedModel.check_model)
    pulls = Pulls(ModelPuller(store, model_editor), store.canonical_name)
    on_demand = PullOnDemand(pulls) if settings.pull_on_demand else None
    models = ServedModels(served, store, model_editor, schedulers, policy, on_demand)
    metrics = GatewayMetrics(served[0].name, max(model.model.config.max_position for model in served))
    metrics.registry.register(SchedulerMetrics(schedulers, placement))
    return GatewayState(
        schedulers=schedulers,
        placement=placement,
        models=models,
        generator=TextGenerator(placement, models, metrics, timeout_s=settings.request_timeout_s),
        grammars=GrammarCompiler(),
        metrics=metrics,
        drain=Drain(),
        store=store,
        blobs=blobs,
        model_editor=model_editor,
        pulls=pulls,
        sampling_policy=policy,
        comment_interval_s=settings.comment_interval_s,
        trust_request_chat_template=settings.trust_request_chat_template,
        started_at=time.time(),
    )


def _build_responses(settings: GatewaySettings, state: GatewayState) -> ResponseService:
    limits = StoreLimits(
        max_entries=settings.response_store_max_entries,
        max_bytes=settings.response_store_max_bytes,
        ttl_s=settings.response_store_ttl_s,
    )
    store = open_response_store(settings.response_store.get_secret_value(), limits)
    return ResponseService(store=store, runs=BackgroundRuns(state.drain))


def _build_schedulers(settings: GatewaySettings) -> Schedulers:
    clients = [
        SchedulerClient(address, silence_s=settings.scheduler_silence_s, security=settings.security)
        for address in settings.scheduler_addresses
    ]
    return Schedulers(clients, outage_grace_s=settings.scheduler_grace_s)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: GatewayState = app.state.gateway
    responses_service: ResponseService = app.state.responses
    await state.placement.start()
    tidying = keep_running("store cleanup", partial(_keep_tidy, state.store))
    try:
        yield
    finally:
        await end_tasks(tidying)
        await state.pulls.stop_pulls()
        await responses_service.close()
        await state.placement.close()
        state.grammars.close()


async def _keep_tidy(store: ModelStore) -> None:
    """Remove leftovers from the store: of an earlier gateway at the start, and of other processes from time to time."""
    while True:
        await asyncio.to_thread(store.tidy)
        await asyncio.sleep(TIDY_INTERVAL_S)


async def _on_gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    return error_response(request.url.path, error)


async def _on_model_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ModelError)
    return error_response(request.url.path, from_model_error(error))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer errors that the framework raises: an unknown path, or a method that the path does not have."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            failure = GatewayError(ErrorKind.ROUTE_NOT_FOUND, _no_such_route(request.method, path))
        case 405:
            headers["Allow"] = allowed = ", ".join(_methods_of(request))
            failure = GatewayError(
                ErrorKind.METHOD_NOT_ALLOWED, f"{path} does not allow {request.method}; use {allowed}."
            )
        case _:
            failure = GatewayError(ErrorKind.INVALID_REQUEST, str(error.detail))
    response = error_response(path, failure)
    response.headers.update(headers)
    return response


def _methods_of(request: Request) -> list[str]:
    """Return the methods that the path has. The framework names only those of the first route of the path."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    found = (route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for methods in found for method in methods})


def _no_such_route(method: str, path: str) -> str:
    """Return an error for an unknown path. Clients of OpenAI's API often lack `/v1` in their base URL."""
    if any(getattr(route, "path", "") == f"/v1{path}" for route in openai.router.routes):
        return f"There is no {method} {path[:200]} here. Use /v1{path}: the base URL must end with /v1."
    return f"There is no {method} {path[:200]} here. The page /docs lists all routes."
