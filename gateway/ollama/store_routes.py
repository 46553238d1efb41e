"""Ollama's endpoints for the models on this machine: tags, show, pull, create, copy, delete and blobs.

Calls of the store run in threads, since it reads and writes files.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.errors import Dialect, ErrorKind, GatewayError, InvalidRequestError, error_body, from_model_error
from gateway.http.bodies import ByteStream, json_body
from gateway.http.reply_models import JSON_BODY_ERRORS, NDJSON, OllamaError, errors, streams
from gateway.http.streaming import JSONObject, ndjson_lines, stream_response, unless_gone
from gateway.models.pulls import Pull
from gateway.models.served_model import ServedModel
from gateway.ollama.prompts import check_template
from gateway.ollama.reply_models import OllamaModelList, OllamaShowReply, OllamaStatus
from gateway.ollama.store_schemas import CopyRequest, CreateRequest, DeleteRequest, PullRequest, ShowRequest
from gateway.state import GatewayState, State
from pagoda.models import ollama_objects
from pagoda.models.errors import ModelError, ModelNotFoundError
from pagoda.models.formats.chat_template_text import is_go_template
from pagoda.models.header_store import has_weights
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.parameters import SAMPLING_PARAMETERS, checked_parameter
from pagoda.models.sources.progress import FileProgress, Stage

UPLOAD_CHUNK_BYTES = 1 << 20
"""Bytes of an upload that are hashed and written at a time, in a thread."""
SHA1_LENGTH = 40
"""Length of a SHA-1 in hexadecimal, which the hub names for small files."""
SUCCESS = {"status": "success"}

router = APIRouter(tags=["Ollama"], responses=errors(OllamaError))
_error_body = partial(error_body, dialect=Dialect.OLLAMA)
Statuses = AsyncGenerator[JSONObject, None]


@router.api_route("/api/tags", methods=["GET", "HEAD"], response_model=OllamaModelList)
async def list_models(state: State) -> Response:
    """List the models of the store and those that the server was started with, the latest first."""
    listed = await asyncio.to_thread(_listed, state)
    return JSONResponse({"models": sorted(listed, key=lambda each: str(each["modified_at"]), reverse=True)})


@router.post("/api/show", response_model=OllamaShowReply, responses=errors(OllamaError, *JSON_BODY_ERRORS, 404))
async def show(state: State, body: Annotated[ShowRequest, json_body(ShowRequest)]) -> Response:
    """Describe a model."""
    served = await _served_if_any(state, body.model_name)
    show_model = partial(
        ollama_objects.shown,
        policy=state.sampling_policy,
        verbose=bool(body.verbose),
        template=served.replaced_template if served else None,
        output=served.output if served else None,
    )
    shown = await asyncio.to_thread(_read_current, state, body.model_name, show_model)
    # orjson writes numbers that JSON does not have, such as NaN, as null. Metadata may hold them.
    return Response(orjson.dumps(shown), media_type="application/json")


@router.post(
    "/api/pull",
    response_model=OllamaStatus,
    responses=streams(NDJSON, OllamaStatus, OllamaError, default=True)
    | errors(OllamaError, *JSON_BODY_ERRORS, 404, 502),
)
async def pull(request: Request, state: State, body: Annotated[PullRequest, json_body(PullRequest)]) -> Response:
    """Download the newest version of a model, from the Hugging Face hub or a registry."""
    pull = state.pulls.watch_pull(body.model_name, insecure=bool(body.insecure))
    return await _respond(request, _pull_statuses(pull), body.stream)


@router.post(
    "/api/create",
    response_model=OllamaStatus,
    responses=streams(NDJSON, OllamaStatus, OllamaError, default=True)
    | errors(OllamaError, *JSON_BODY_ERRORS, 404, 409, 502),
)
async def create(request: Request, state: State, body: Annotated[CreateRequest, json_body(CreateRequest)]) -> Response:
    """Make a model from another model, which is pulled if it is not here, or from uploaded files."""
    if body.template and not is_go_template(body.template):  # the editor chooses what is used instead of a Go template
        await check_template(body.template)
    state.store.canonical_name(body.model_name)  # raises an error for an invalid name
    _refuse_if_named(state, body.model_name, "replaced")
    if body.from_ and not body.files and not state.models.has_model(body.from_):
        pull = state.pulls.watch_pull(body.from_)
        return await _respond(request, _create_after_pull(state, body, pull), body.stream)
    make = await asyncio.to_thread(_maker, state, body)
    return await _respond(request, _create_statuses(make), body.stream)


@router.post("/api/copy", response_class=Response, responses=errors(OllamaError, *JSON_BODY_ERRORS, 404, 409))
async def copy(state: State, body: Annotated[CopyRequest, json_body(CopyRequest)]) -> Response:
    """Store a model under a further name. Both names share the files."""
    _refuse_if_named(state, body.destination, "replaced")
    model = await asyncio.to_thread(_with_weights, state, body.source)
    await asyncio.to_thread(state.model_editor.copy_model, model, body.destination)
    return Response()


@router.delete("/api/delete", response_class=Response, responses=errors(OllamaError, *JSON_BODY_ERRORS, 404, 409))
async def delete(state: State, body: Annotated[DeleteRequest, json_body(DeleteRequest)]) -> Response:
    """Delete a model."""
    await asyncio.to_thread(state.model_editor.check_deletable, body.model_name)
    _refuse_if_named(state, body.model_name, "deleted")
    name = await asyncio.to_thread(_listed_name, state, body.model_name)
    await asyncio.to_thread(state.model_editor.delete, body.model_name)
    await _let_go(state, name)
    return Response()


@router.head("/api/blobs/{digest}", response_class=Response, responses=errors(OllamaError, 400, 404))
async def has_blob(state: State, digest: str) -> Response:
    """Check whether a blob was uploaded: 200 if so, else 404."""
    await asyncio.to_thread(state.blobs.get, digest)
    return Response()


@router.post(
    "/api/blobs/{digest}",
    response_class=Response,
    status_code=201,
    responses=errors(OllamaError, 400) | {200: {"description": "The blob is already on this machine."}},
)
async def upload_blob(state: State, digest: str, chunks: ByteStream) -> Response:
    """Upload a file of a model. Its length is not limited."""
    blobs = state.blobs
    if await asyncio.to_thread(blobs.has, digest):
        return Response()
    upload = blobs.upload(digest)
    await asyncio.to_thread(upload.begin)
    try:
        waiting = bytearray()
        async for chunk in chunks:
            waiting += chunk
            if len(waiting) >= UPLOAD_CHUNK_BYTES:
                await asyncio.to_thread(upload.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(upload.write, bytes(waiting))
        await asyncio.to_thread(upload.commit)
    finally:
        upload.end()
    return Response(status_code=201)


async def _respond(request: Request, statuses: Statuses, stream: bool | None) -> Response:
    if stream is None or stream:
        return await stream_response(request, ndjson_lines(statuses, _error_body), NDJSON)
    return JSONResponse(await unless_gone(request.receive, _last(statuses)))


async def _last(statuses: Statuses) -> JSONObject:
    last: JSONObject = {}
    async for status in statuses:
        last = status
    return last


async def _pull_statuses(pull: Pull) -> Statuses:
    """Yield the statuses of a pull, as Ollama does. A file's byte counts never fall, and end at its size.

    A model that is up to date has one line with all its bytes.
    """
    yield {"status": "pulling manifest"}
    verifying = False
    async for progress in pull.watch_progress():
        if progress.file is not None:
            yield _pulling(progress.file)
        elif progress.stage is Stage.VERIFYING:
            verifying = True
            yield {"status": "verifying sha256 digest"}
    model = await pull.result()
    if not verifying:
        size = model.size_bytes
        yield _pulling(FileProgress(name=model.name, digest=model.digest, completed_bytes=size, total_bytes=size))
        yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    yield SUCCESS


def _pulling(file: FileProgress) -> JSONObject:
    algorithm = "sha1" if len(file.digest) == SHA1_LENGTH else "sha256"
    return {
        "status": f"pulling {file.digest[:12]}",
        "digest": f"{algorithm}:{file.digest}",
        "total": file.total_bytes,
        "completed": file.completed_bytes,
    }


async def _create_after_pull(state: GatewayState, body: CreateRequest, pull: Pull) -> Statuses:
    async for status in _pull_statuses(pull):
        if status != SUCCESS:
            yield status
    try:
        make = await asyncio.to_thread(_maker, state, body)
    except ModelError as error:
        raise from_model_error(error) from None
    async for status in _create_statuses(make):
        yield status


async def _create_statuses(make: Callable[[Callable[[str], None]], None]) -> Statuses:
    statuses: list[str] = []
    try:
        await asyncio.to_thread(make, statuses.append)
    except ModelError as error:
        raise from_model_error(error) from None
    for status in (*statuses, "success"):
        yield {"status": status}


def _maker(state: GatewayState, body: CreateRequest) -> Callable[[Callable[[str], None]], None]:
    """Check the request, and return the function that makes the model."""
    if body.from_ and body.files:
        raise InvalidRequestError("from and files exclude each other; send one of them", param="files")
    if body.from_:
        base = _with_weights(state, body.from_)
        return partial(state.model_editor.create_from_model, body.model_name, base, _settings(body))
    if body.files:
        files = {name: state.blobs.get(digest) for name, digest in body.files.items()}
        return partial(state.model_editor.create_from_files, body.model_name, files, _settings(body))
    raise InvalidRequestError("neither 'from' or 'files' was specified", param="from")


def _settings(body: CreateRequest) -> ModelSettings:
    parameters: dict[str, Any] = {} if body.parameters is None else body.parameters.model_dump(exclude_none=True)
    for name in parameters.keys() & set(SAMPLING_PARAMETERS):
        try:
            checked_parameter(name, parameters[name])
        except ValueError as error:
            raise InvalidRequestError(f"parameters.{name}: {error}", param=f"parameters.{name}") from None
    messages = [{"role": message.role, "content": message.content} for message in body.messages or ()]
    return ModelSettings(
        system=body.system or "",
        template=body.template or "",
        license=body.licenses,
        parameters=parameters,
        messages=messages,
    )


def _listed_name(state: GatewayState, name: str) -> str:
    """Return the name of a model in lists, which workers report too, or the canonical name of a damaged model."""
    try:
        return state.model_editor.get(name).name
    except ModelError:
        return state.store.canonical_name(name)


async def _let_go(state: GatewayState, name: str) -> None:
    """Unload a deleted model when no request uses it any more."""
    if any(info.name == name for _, info in await state.models.models_in_memory()):
        with contextlib.suppress(GatewayError):
            await state.schedulers.keep_loaded(name, 0.0)


def _listed(state: GatewayState) -> list[JSONObject]:
    """Describe the models. A model that is deleted at the same time is left out."""
    stored, named = state.store.list(), [named.model for named in state.models.named]
    listed = []
    for model in {model.name: model for model in (*stored, *named)}.values():
        with contextlib.suppress(ModelNotFoundError):
            listed.append(state.store.read_current(model, ollama_objects.listed_with_capabilities)[1])
    return listed


def _read_current(state: GatewayState, name: str, read: Callable[[Model], JSONObject]) -> JSONObject:
    return state.store.read_current(_stored_or_served(state, name), read)[1]


async def _served_if_any(state: GatewayState, name: str) -> ServedModel | None:
    """Return the model as requests get it, or None if it cannot be served."""
    try:
        return await state.models.find_model(name) if state.models.has_model(name) else None
    except (GatewayError, ModelError):
        return None


def _stored_or_served(state: GatewayState, name: str) -> Model:
    named = state.models.find_named(name)
    return named.model if named else state.model_editor.get(name)


def _with_weights(state: GatewayState, name: str) -> Model:
    model = _stored_or_served(state, name)
    if not has_weights(state.store, model):
        raise GatewayError(
            ErrorKind.CONFLICT,
            f"the weights of the model '{name}' are not on the gateway's machine; pull it there first",
        )
    return model


def _refuse_if_named(state: GatewayState, name: str, what: str) -> None:
    """Raise an error for a model that is being served: a worker that restarts reads its files again."""
    if name and state.models.find_named(name) and state.model_editor.has(name):
        raise GatewayError(
            ErrorKind.CONFLICT, f"the model '{name}' is being served and cannot be {what}; stop this server first"
        )
