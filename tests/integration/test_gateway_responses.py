"""Tests of the Responses API: the JSON on the wire, the order of events, and the store."""

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from pagoda.api_keys.key_file import digest_of
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import IM_END, IM_START

PATH = "/v1/responses"


async def create(gateway: RunningGateway, expected_status: int = 200, **fields: Any) -> dict[str, Any]:
    response = await gateway.http.post(PATH, json={"input": "Hi", **fields})
    assert response.status_code == expected_status, response.text
    return response.json()  # type: ignore[no-any-return]


async def fetch(gateway: RunningGateway, response_id: str, expected_status: int = 200, **query: Any) -> dict[str, Any]:
    response = await gateway.http.get(f"{PATH}/{response_id}", params=query)
    assert response.status_code == expected_status, response.text
    return response.json()  # type: ignore[no-any-return]


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events' objects. Each event is named after the type of its object, and they are numbered."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    events = []
    for text in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = text.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def stream(gateway: RunningGateway, **fields: Any) -> list[dict[str, Any]]:
    events = events_of(await gateway.http.post(PATH, json={"input": "Hi", "stream": True, **fields}))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def prompt(gateway: RunningGateway) -> str:
    """Return the latest prompt. `[` and `]` are the marks of messages."""
    names = {IM_START: "[", IM_END: "]"}
    tokens = gateway.scheduler.requests[-1].prompt_token_ids
    return "".join(names.get(token) or chr(token) for token in tokens)


async def test_a_whole_response_has_all_fields(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello!", num_cached_tokens=16)
    body = await create(
        gateway,
        instructions="Be brief.",
        temperature=0.5,
        metadata={"turn": "1"},
        max_output_tokens=9,
        user="me",
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
    )
    response_id = body.pop("id")
    assert response_id.startswith("resp_")
    assert isinstance(body.pop("created_at"), int) and isinstance(body.pop("completed_at"), int)
    [message] = body.pop("output")
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}],
    }
    num_prompt_tokens = len(prompt(gateway))
    assert prompt(gateway) == "[system\nBe brief.]\n[user\nHi]\n[assistant\n"
    assert body == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "max_tool_calls": None,
        "metadata": {"turn": "1"},
        "model": "tiny",
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": "low", "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": num_prompt_tokens,
            "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0},
            "output_tokens": 6,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": num_prompt_tokens + 6,
        },
        "user": "me",
    }
    sampling = gateway.scheduler.requests[-1].sampling
    assert sampling.temperature == 0.5 and sampling.max_tokens == 9


async def test_the_events_of_a_stream_come_in_order(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hey")
    events = await stream(gateway)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    created, in_progress, *middle, completed = events
    assert created["response"]["status"] == in_progress["response"]["status"] == "in_progress"
    assert created["response"]["output"] == [] and created["response"]["usage"] is None
    assert [event["delta"] for event in middle if "delta" in event] == ["H", "e", "y"]
    assert {event["output_index"] for event in middle} == {0}
    item = completed["response"]["output"][0]
    assert {event.get("item_id", item["id"]) for event in middle} == {item["id"]}
    assert middle[-1]["item"] == item and middle[-2]["part"] == item["content"][0]


async def test_the_last_event_has_the_same_response_as_without_a_stream(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Grüße an alle", num_cached_tokens=3)
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 8}
    whole, last = await create(gateway, **fields), (await stream(gateway, **fields))[-1]
    assert last["type"] == "response.incomplete"
    changing = {"id", "created_at", "completed_at", "output"}
    streamed = last["response"]
    assert {name: value for name, value in whole.items() if name not in changing} == {
        name: value for name, value in streamed.items() if name not in changing
    }
    assert whole["output"][0]["content"] == streamed["output"][0]["content"]
    assert len(whole["output"][0]["content"][0]["logprobs"]) == 8
    assert streamed["incomplete_details"] == {"reason": "max_output_tokens"}
    assert streamed["output"][0]["status"] == "incomplete"


async def test_log_probabilities_come_with_their_text(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hi")
    events = await stream(gateway, include=["message.output_text.logprobs"], top_logprobs=1)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [[each["token"] for each in event["logprobs"]] for event in deltas] == [["H"], ["i"]]
    [part] = events[-1]["response"]["output"][0]["content"]
    top = [{"token": "H", "logprob": -0.5, "bytes": [72]}]
    assert part["logprobs"][0] == {"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": top}
    assert (await create(gateway))["output"][0]["content"][0]["logprobs"] == []


async def test_an_empty_answer_is_an_empty_message(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(token_ids=(IM_END,))
    [item] = (await create(gateway))["output"]
    assert item["type"] == "message" and item["content"][0]["text"] == ""


async def test_items_become_messages(gateway: RunningGateway) -> None:
    await create(
        gateway,
        input=[
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "One"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "1", "annotations": []}]},
            {"role": "user", "content": "Two"},
        ],
    )
    assert prompt(gateway) == "[system\nBe brief.]\n[user\nOne]\n[assistant\n1]\n[user\nTwo]\n[assistant\n"


async def test_a_conversation_continues_from_the_store(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="1")
    first = await create(gateway, input="One", instructions="Be brief.")
    gateway.scheduler.answer = lambda *_: Answer(text="2")
    second = (await stream(gateway, input="Two", previous_response_id=first["id"]))[-1]["response"]
    assert second["previous_response_id"] == first["id"]
    assert prompt(gateway) == "[user\nOne]\n[assistant\n1]\n[user\nTwo]\n[assistant\n"  # without the instructions
    await create(gateway, input="Three", previous_response_id=second["id"])
    before = "[user\nOne]\n[assistant\n1]\n[user\nTwo]\n[assistant\n2]\n"
    assert prompt(gateway) == f"{before}[user\nThree]\n[assistant\n"
    # Another branch from the first response.
    await create(gateway, input="Else", previous_response_id=first["id"])
    assert prompt(gateway) == "[user\nOne]\n[assistant\n1]\n[user\nElse]\n[assistant\n"


async def test_an_item_may_be_named_by_its_id(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="1")
    first = await create(gateway, input="One")
    listed = (await gateway.http.get(f"{PATH}/{first['id']}/input_items")).json()
    references = [{"id": listed["data"][0]["id"]}, {"type": "item_reference", "id": first["output"][0]["id"]}]
    await create(gateway, input=[*references, {"role": "user", "content": "Two"}])
    assert prompt(gateway) == "[user\nOne]\n[assistant\n1]\n[user\nTwo]\n[assistant\n"
    wrong = await create(gateway, 404, input=[{"id": "msg_1"}])
    assert wrong["error"]["code"] == "item_not_found" and "msg_1" in wrong["error"]["message"]


async def test_a_stored_response_can_be_fetched_and_deleted(gateway: RunningGateway) -> None:
    created = await create(gateway)
    assert await fetch(gateway, created["id"]) == created
    deleted = await gateway.http.delete(f"{PATH}/{created['id']}")
    assert deleted.json() == {"id": created["id"], "object": "response", "deleted": True}
    for missing in (
        await fetch(gateway, created["id"], 404),
        (await gateway.http.delete(f"{PATH}/{created['id']}")).json(),
        (await gateway.http.post(f"{PATH}/{created['id']}/cancel")).json(),
        (await gateway.http.get(f"{PATH}/{created['id']}/input_items")).json(),
        await create(gateway, 404, previous_response_id=created["id"]),
    ):
        assert created["id"] in missing["error"]["message"] and "other gateways" in missing["error"]["message"]
    assert missing["error"]["code"] == "previous_response_not_found"
    assert missing["error"]["param"] == "previous_response_id"


async def test_a_response_that_is_not_to_be_stored_is_not(gateway: RunningGateway) -> None:
    created = await create(gateway, store=False)
    assert created["store"] is False
    await fetch(gateway, created["id"], 404)


async def test_input_items_are_listed_in_pages(gateway: RunningGateway) -> None:
    created = await create(gateway, input=[{"role": "user", "content": f"{number}"} for number in range(5)])
    path = f"{PATH}/{created['id']}/input_items"

    async def page(**query: Any) -> tuple[str, bool]:
        listed = (await gateway.http.get(path, params=query)).json()
        items = listed["data"]
        assert [listed["first_id"], listed["last_id"]] == ([items[0]["id"], items[-1]["id"]] if items else [None, None])
        return "".join(item["content"][0]["text"] for item in items), listed["has_more"]

    assert await page() == ("43210", False)
    assert await page(order="asc", limit=2) == ("01", True)
    ids = [item["id"] for item in (await gateway.http.get(path, params={"order": "asc"})).json()["data"]]
    assert await page(order="asc", limit=2, after=ids[1]) == ("23", True)
    assert await page(order="asc", after=ids[4]) == ("", False)
    assert await page(after=ids[1]) == ("0", False)
    for query in ({"order": "up"}, {"limit": "0"}, {"limit": "x"}, {"after": "msg_1"}):
        wrong = await gateway.http.get(path, params=query)
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == next(iter(query))


async def test_another_key_does_not_see_a_response(short_path: Path) -> None:
    keys = [
        {"name": name, "sha256": digest_of(name.encode()), "created_at": "2026-01-01T00:00:00Z"} for name in ("a", "b")
    ]
    async with running_gateway(short_path, keys=json.dumps({"keys": keys})) as gateway:
        mine, theirs = ({"authorization": f"Bearer {name}"} for name in ("a", "b"))
        created = (await gateway.http.post(PATH, json={"input": "Hi"}, headers=mine)).json()
        path = f"{PATH}/{created['id']}"
        assert (await gateway.http.get(path, headers=theirs)).status_code == 404
        assert (await gateway.http.delete(path, headers=theirs)).status_code == 404
        continued = {"input": "Hi", "previous_response_id": created["id"]}
        assert (await gateway.http.post(PATH, json=continued, headers=theirs)).status_code == 404
        assert (await gateway.http.get(path, headers=mine)).status_code == 200


async def test_a_failure_before_the_first_token_has_its_own_status(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", 3.0))
    for fields in ({}, {"stream": True}):
        refused = await gateway.http.post(PATH, json={"input": "Hi", **fields})
        assert refused.status_code == 429 and refused.headers["retry-after"] == "3"
        assert refused.json()["error"]["code"] == "overloaded"


async def test_a_failure_after_the_first_token_is_the_last_event(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", failure_after=2)
    *_, delta, failed = await stream(gateway)
    assert delta["delta"] == "e"
    assert failed["type"] == "response.failed"
    response = failed["response"]
    assert response["status"] == "failed" and response["error"]["code"] == "server_error"
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == "He"
    assert await fetch(gateway, response["id"]) == response
    assert (await create(gateway, 500))["error"]["type"] == "server_error"


async def test_a_failure_after_a_comment_is_an_event(short_path: Path) -> None:
    async with running_gateway(short_path, comment_interval_s=0.01) as gateway:
        gateway.scheduler.answer = lambda *_: Answer(refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", None))
        gateway.scheduler.thawed.clear()
        async with gateway.http.stream("POST", PATH, json={"input": "Hi", "stream": True}) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == ": waiting"
            gateway.scheduler.thawed.set()
            rest = [line async for line in lines if line and not line.startswith(":")]
        assert rest[0] == "event: error" and len(rest) == 2
        error = json.loads(rest[1].removeprefix("data: "))
        assert error["sequence_number"] == 0 and error["code"] == "overloaded" and "full" in error["message"]


async def test_a_client_that_leaves_cancels_its_response(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    async with gateway.http.stream("POST", PATH, json={"input": "Hi", "stream": True}) as response:
        async for line in response.aiter_lines():
            if line == "event: response.output_text.delta":
                break
    request_id = await gateway.scheduler.cancelled.get()
    assert request_id == gateway.scheduler.requests[0].request_id


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"input": []}, "input", "required"),
        ({"input": 7}, "input", "a string or a list"),
        ({"input": [7]}, "input.0", "object"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input.0.type", "web_search_call"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0.type",
            "input_image",
        ),
        ({"input": [{"role": "boss", "content": "Hi"}]}, "input.0.role", "boss"),
        (
            {"input": [{"type": "function_call_output", "call_id": "call_1", "output": "4"}]},
            "input.0.call_id",
            "call_1",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "web_search"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name", "a b"),
        ({"tools": [{"type": "function", "name": "a"}] * 2}, "tools.1.name", "again"),
        ({"tools": [{"type": "function", "name": f"a{number}"} for number in range(1025)]}, "tools", "at most 1024"),
        ({"tool_choice": "required"}, "tool_choice", "without tools"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice", "mcp"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "required"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "grammar"),
        ({"background": True, "store": False}, "background", "store"),
        ({"conversation": "conv_1"}, "conversation", "not supported"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "not supported"),
        ({"max_output_tokens": 0}, "max_output_tokens", "0"),
        ({"metadata": {"k": "v" * 513}}, "metadata", "512"),
        ({"include": ["everything"]}, "include.0", "everything"),
    ],
)
async def test_a_wrong_field_is_named(gateway: RunningGateway, fields: dict[str, Any], param: str, told: str) -> None:
    error = (await create(gateway, 400, **fields))["error"]
    assert error["param"] == param and told in error["message"]


async def test_unknown_fields_and_those_without_effect_are_named_in_a_header(gateway: RunningGateway) -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Hi", "size": 1}], "mood": "good"}]
    body = {"input": items, "reasoning": {"summary": "auto"}, "surprise": 1}
    response = await gateway.http.post(PATH, json=body)
    assert response.status_code == 200
    assert response.headers["x-pagoda-ignored"] == "surprise, input.0.mood, input.0.content.0.size, reasoning.summary"


async def test_a_long_conversation_may_lose_its_oldest_turns(gateway: RunningGateway) -> None:
    items = [{"role": role, "content": "x" * 100} for role in ("user", "assistant") * 4]
    body = {"instructions": "Be brief.", "input": [*items, {"role": "user", "content": "Last"}]}
    refused = await create(gateway, 400, **body)
    assert refused["error"]["code"] == "context_length_exceeded" and refused["error"]["param"] == "input"
    response = await gateway.http.post(PATH, json={**body, "truncation": "auto"})
    assert response.headers["x-pagoda-truncated"] == "6 messages"
    assert prompt(gateway).startswith("[system\nBe brief.]\n[user\nx")
    assert prompt(gateway).endswith("[user\nLast]\n[assistant\n")
    assert response.json()["truncation"] == "auto"


async def test_the_text_may_have_a_form(gateway: RunningGateway) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form = {"type": "json_schema", "name": "place", "schema": schema, "strict": True}
    response = await create(gateway, text={"format": form})
    assert response["text"]["format"] == form
    assert "city" in gateway.scheduler.requests[-1].sampling.constraint.grammar
    await create(gateway, text={"format": {"type": "json_object"}})
    assert gateway.scheduler.requests[-1].sampling.constraint.grammar
    await create(gateway, structured_outputs={"choice": ["yes", "no"]})
    assert "yes" in gateway.scheduler.requests[-1].sampling.constraint.grammar
    await create(gateway)
    assert not gateway.scheduler.requests[-1].sampling.HasField("constraint")
    schema["properties"] = {"city": {"type": "string", "format": "no-such-format"}}
    error = (await create(gateway, 400, text={"format": form}))["error"]
    assert error["param"] == "text.format.schema" and "no-such-format" in error["message"]
    both = await create(gateway, 400, text={"format": {"type": "json_object"}}, structured_outputs={"regex": "a"})
    assert both["error"]["param"] == "structured_outputs"


async def test_an_effort_that_the_template_does_not_read_is_named_in_a_header(gateway: RunningGateway) -> None:
    response = await gateway.http.post(PATH, json={"input": "Hi", "reasoning": {"effort": "low"}})
    assert response.headers["x-pagoda-ignored"] == "reasoning.effort"
