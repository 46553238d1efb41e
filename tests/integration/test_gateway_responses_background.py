"""Tests of responses in the background: polled, followed, cancelled and deleted."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.fakes.gateway import RunningGateway
from tests.fakes.scheduler import Answer
from tests.integration.test_gateway_responses import PATH, create, events_of, fetch


@pytest.fixture
async def held(gateway: RunningGateway) -> AsyncIterator[RunningGateway]:
    """Yield a gateway whose answer `Hello` stops after two letters until the scheduler's `release`."""
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    yield gateway
    gateway.scheduler.release.set()


async def finished(gateway: RunningGateway, response_id: str) -> dict[str, Any]:
    response: dict[str, Any] = {}

    async def is_over() -> bool:
        nonlocal response
        response = await fetch(gateway, response_id)
        return response["status"] not in ("queued", "in_progress")

    while not await is_over():
        pass
    return response


async def test_a_response_in_the_background_can_be_polled(held: RunningGateway) -> None:
    created = await create(held, background=True)
    assert created["status"] == "queued" and created["background"] is True and created["output"] == []
    await held.scheduler.held.get()
    while not (running := await fetch(held, created["id"]))["output"]:
        pass
    assert running["status"] == "in_progress" and running["output"][0]["status"] == "in_progress"
    early = await create(held, 400, previous_response_id=created["id"])
    assert "in_progress" in early["error"]["message"] or "queued" in early["error"]["message"]
    held.scheduler.release.set()
    ended = await finished(held, created["id"])
    assert ended["status"] == "completed" and ended["output"][0]["content"][0]["text"] == "Hello"
    assert (await held.http.post(f"{PATH}/{created['id']}/cancel")).json() == ended


async def test_a_response_in_the_background_can_be_followed_from_any_event(held: RunningGateway) -> None:
    body = {"input": "Hi", "background": True, "stream": True}
    seen: list[dict[str, Any]] = []
    async with held.http.stream("POST", PATH, json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
                if "delta" in seen[-1]:
                    break
    assert [event["type"] for event in seen[:2]] == ["response.created", "response.queued"]
    response_id = seen[0]["response"]["id"]
    held.scheduler.release.set()
    await finished(held, response_id)
    path = f"{PATH}/{response_id}"
    after = {"stream": "true", "starting_after": str(len(seen) - 1)}
    rest = events_of(await held.http.get(path, params=after))
    assert held.scheduler.cancelled.empty(), "the response continues when its client leaves"
    everything = events_of(await held.http.get(path, params={"stream": "true"}))
    assert [*seen, *rest] == everything
    assert [event["sequence_number"] for event in everything] == list(range(len(everything)))
    assert everything[-1]["response"] == await fetch(held, response_id)


async def test_a_response_in_the_background_can_be_cancelled(held: RunningGateway) -> None:
    created = await create(held, background=True)
    await held.scheduler.held.get()
    cancelled = await held.http.post(f"{PATH}/{created['id']}/cancel")
    assert cancelled.status_code == 200 and cancelled.json()["status"] == "cancelled"
    assert await held.scheduler.cancelled.get() == held.scheduler.requests[0].request_id
    assert await fetch(held, created["id"]) == cancelled.json()


async def test_a_deleted_response_in_the_background_ends(held: RunningGateway) -> None:
    created = await create(held, background=True)
    await held.scheduler.held.get()
    path = f"{PATH}/{created['id']}"
    async with held.http.stream("GET", path, params={"stream": "true"}) as followed:
        assert (await held.http.delete(path)).status_code == 200
        lines = [line async for line in followed.aiter_lines() if line.startswith("data: ")]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert last["type"] == "response.failed" and "deleted" in last["response"]["error"]["message"]
    await held.scheduler.cancelled.get()
    await fetch(held, created["id"], 404)


async def test_a_response_in_the_background_that_fails_says_why(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", None))
    created = await create(gateway, background=True)
    failed = await finished(gateway, created["id"])
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "rate_limit_exceeded", "message": "full"}


async def test_a_shutdown_waits_for_responses_in_the_background(held: RunningGateway) -> None:
    created = await create(held, background=True)
    await held.scheduler.held.get()
    waiting = asyncio.ensure_future(held.app.state.gateway.drain.wait_until_idle())
    for _ in range(3):
        assert (await fetch(held, created["id"]))["status"] != "completed"
    assert not waiting.done()
    held.scheduler.release.set()
    await waiting
    assert (await fetch(held, created["id"]))["status"] == "completed"


async def test_only_responses_in_the_background_are_cancelled_and_followed(gateway: RunningGateway) -> None:
    created = await create(gateway)
    wrong = await gateway.http.post(f"{PATH}/{created['id']}/cancel")
    assert wrong.status_code == 400 and "background" in wrong.json()["error"]["message"]
    assert (await fetch(gateway, created["id"], 400, stream="true"))["error"]["param"] == "stream"
    assert (await fetch(gateway, created["id"], 400, starting_after="1"))["error"]["param"] == "starting_after"
