"""OpenAI's Responses API: create a response, fetch, follow, cancel and delete it, and list its input."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.errors import InvalidRequestError
from gateway.http.bodies import json_body
from gateway.http.http_context import HTTPContext, http_context
from gateway.http.reply_models import EVENT_STREAM, GENERATION_ERRORS, OpenAIError, errors, streams
from gateway.http.streaming import Lines, event_lines, named_event, stream_response, unless_gone
from gateway.responses import queries
from gateway.responses.background import BackgroundRun, Wish
from gateway.responses.generation import generate_or_fail, generate_response
from gateway.responses.reply import error_event
from gateway.responses.reply_models import EVENTS, DeletedResponse, InputItemList, ResponseObject
from gateway.responses.requests import BegunResponse, begin_response
from gateway.responses.schemas import ResponseRequest
from gateway.responses.service import ResponseService, Service
from gateway.responses.stored_responses import StoredResponses
from gateway.state import GatewayState, State

router = APIRouter(prefix="/v1", tags=["OpenAI"])

MAX_LISTED, DEFAULT_LISTED = 100, 20
_MAX_SEQUENCE_NUMBER = 2**31 - 1


@router.post(
    "/responses",
    response_model=ResponseObject,
    responses=streams(EVENT_STREAM, *EVENTS, named_events=True) | errors(OpenAIError, *GENERATION_ERRORS),
)
async def create_response(
    request: Request, state: State, service: Service, body: Annotated[ResponseRequest, json_body(ResponseRequest)]
) -> Response:
    """Answer a conversation. The response is stored unless `store` is false."""
    stored = service.stored_for(request)
    if body.background:
        return await _create_in_background(request, state, service, body, stored)
    if body.stream:
        lines = event_lines(_events(request, state, stored, body), error_event)
        return await stream_response(request, lines, EVENT_STREAM, comment_every_s=state.comment_interval_s)
    return _json(await unless_gone(request.receive, _whole(request, state, stored, body)))


@router.get(
    "/responses/{response_id}",
    response_model=ResponseObject,
    responses=streams(EVENT_STREAM, *EVENTS, named_events=True) | errors(OpenAIError, 400, 404),
)
async def get_response(
    request: Request,
    state: State,
    service: Service,
    response_id: str,
    stream: str | None = None,
    starting_after: str | None = None,
) -> Response:
    """Return a stored response. With `stream`, send the events of one that was created with `background`.

    `starting_after` is the sequence number of the last event that the client has.
    """
    stored = service.stored_for(request)
    run = service.runs.find(stored.owner, response_id)
    after = queries.integer("starting_after", starting_after, 0, _MAX_SEQUENCE_NUMBER)
    if not queries.flag("stream", stream):
        if after is not None:
            raise InvalidRequestError("starting_after: needs `stream`", param="starting_after")
        found = run.begun.reply.response if run is not None else (await stored.get(response_id)).response
        return _json(found)
    if run is None:
        await stored.get(response_id)
        raise InvalidRequestError(
            "stream: this server does not have the events of this response; only those of a response with `background` are kept, "
            "until some time after its end, by the gateway that generates it",
            param="stream",
        )
    return await _follow(request, state, run, 0 if after is None else after + 1)


@router.delete("/responses/{response_id}", response_model=DeletedResponse, responses=errors(OpenAIError, 404))
async def delete_response(request: Request, service: Service, response_id: str) -> Response:
    """Delete a stored response. One that is being generated is cancelled."""
    stored = service.stored_for(request)
    await service.runs.delete(stored.owner, response_id)
    if not await stored.delete(response_id):
        raise stored.not_found(response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.post("/responses/{response_id}/cancel", response_model=ResponseObject, responses=errors(OpenAIError, 400, 404))
async def cancel_response(request: Request, service: Service, response_id: str) -> Response:
    """Cancel a response that is generated in the background. One that has ended stays as it is."""
    stored = service.stored_for(request)
    if (run := service.runs.find(stored.owner, response_id)) is not None:
        await run.end_early(Wish.CANCEL)
        return _json(run.begun.reply.response)
    found = await stored.get(response_id)
    if not found.response["background"]:
        raise InvalidRequestError("Only a response that was created with `background` can be cancelled.")
    if found.is_running:
        raise InvalidRequestError(
            "Another gateway generates this response, or has been lost; only that one can cancel it."
        )
    return _json(found.response)


@router.get(
    "/responses/{response_id}/input_items", response_model=InputItemList, responses=errors(OpenAIError, 400, 404)
)
async def list_input_items(
    request: Request,
    service: Service,
    response_id: str,
    order: str | None = None,
    limit: str | None = None,
    after: str | None = None,
) -> Response:
    """List the items of a response's own input, the last one first unless `order` is `asc`."""
    order = queries.choice("order", order, "desc", "asc")
    most = queries.integer("limit", limit, 1, MAX_LISTED) or DEFAULT_LISTED
    items = (await service.stored_for(request).get(response_id)).input
    if order == "desc":
        items = items[::-1]
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise InvalidRequestError(f"after: no item has the id {after[:80]!r}", param="after")
        items = items[ids.index(after) + 1 :]
    shown = items[:most]
    return JSONResponse(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(items) > most,
        }
    )


async def _create_in_background(
    request: Request, state: GatewayState, service: ResponseService, body: ResponseRequest, stored: StoredResponses
) -> Response:
    # The span of this request ends before the response does.
    http = HTTPContext(request_id=http_context(request).request_id, caller=http_context(request).caller)
    run = await service.runs.start(
        await unless_gone(request.receive, begin_response(request, state, stored, body, http))
    )
    return await _follow(request, state, run, 0) if body.stream else _json(run.begun.reply.response)


async def _follow(request: Request, state: GatewayState, run: BackgroundRun, start: int) -> Response:
    lines = Lines(run.follow(start), lambda error: named_event(error_event(error)), bytes)
    return await stream_response(request, lines, EVENT_STREAM, comment_every_s=state.comment_interval_s)


async def _events(
    request: Request, state: GatewayState, stored: StoredResponses, body: ResponseRequest
) -> AsyncGenerator[dict[str, Any], None]:
    begun = await begin_response(request, state, stored, body, http_context(request))
    async with aclosing(generate_or_fail(begun)) as events:
        async for event in events:
            yield event


async def _whole(
    request: Request, state: GatewayState, stored: StoredResponses, body: ResponseRequest
) -> dict[str, Any]:
    begun = await begin_response(request, state, stored, body, http_context(request))
    await _exhaust(begun)
    return begun.reply.response


async def _exhaust(begun: BegunResponse) -> None:
    async with aclosing(generate_response(begun)) as events:
        async for _ in events:
            pass


def _json(response: dict[str, Any]) -> Response:
    return Response(orjson.dumps(response), media_type="application/json")
