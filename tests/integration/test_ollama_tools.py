"""Tests of tools and thinking in Ollama's dialect, on the wire and with the official client."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import IM_END, IM_START, write_tiny_gguf

# A template like Qwen 3's.
TEMPLATE = """\
{% if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>
<tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>
{% endif %}{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
CUT = 'a"}}\n</tool_call>'
QUESTION = {"role": "user", "content": "Weather?"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {"city": {"type": ["string", "null"], "description": "The city"}},
        },
    },
}


def call(**arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'weather', 'arguments': arguments})}\n</tool_call>"


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    write_tiny_gguf(short_path / "tiny.gguf", chat_template=TEMPLATE, max_position=4096)
    async with running_gateway(short_path) as running:
        running.scheduler.models[0].max_model_len = 4096
        yield running


async def chat(gateway: RunningGateway, answer: str, **fields: Any) -> list[dict[str, Any]]:
    gateway.scheduler.answer = lambda *_: Answer(text=answer)
    body = {"model": "tiny", "messages": [QUESTION], **fields}
    response = await gateway.http.post("/api/chat", json=body)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def prompt_of(gateway: RunningGateway) -> str:
    special = {IM_START: b"<|im_start|>", IM_END: b"<|im_end|>"}
    ids = gateway.scheduler.requests[-1].prompt_token_ids
    return b"".join(special.get(each) or bytes([each]) for each in ids).decode()


def weather(city: str) -> str:
    """Return the weather of a city.

    Args:
        city: The city.
    """
    return f"Sunny in {city}"


async def test_calls_are_whole_in_lines_before_the_last(gateway: RunningGateway) -> None:
    lines = await chat(gateway, f"Well.{call(city='Lima')}\n{call(city='Quito')}", tools=[TOOL])
    *pieces, end = lines
    assert "".join(line["message"]["content"] for line in pieces) == "Well."
    calls = [each for line in pieces for each in line["message"].get("tool_calls", [])]
    assert [each["function"] for each in calls] == [
        {"index": 0, "name": "weather", "arguments": {"city": "Lima"}},
        {"index": 1, "name": "weather", "arguments": {"city": "Quito"}},
    ]
    assert len({each["id"] for each in calls}) == 2 and all(each["id"].startswith("call_") for each in calls)
    assert not any(line["done"] for line in pieces)
    assert (end["message"], end["done_reason"]) == ({"role": "assistant", "content": ""}, "stop")
    assert json.dumps(TOOL["function"]["name"]) in prompt_of(gateway) and '"null"' in prompt_of(gateway)
    (whole,) = await chat(gateway, f"Well.{call(city='Lima')}", tools=[TOOL], stream=False)
    assert whole["message"]["content"] == "Well."
    assert whole["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Lima"}


async def test_a_call_without_tools_is_text(gateway: RunningGateway) -> None:
    (whole,) = await chat(gateway, call(city="Lima"), stream=False)
    assert whole["message"]["content"].strip() == call(city="Lima") and "tool_calls" not in whole["message"]


async def test_a_call_that_is_cut_off_is_not_lost(gateway: RunningGateway) -> None:
    cut = call(city="Lima")[: -len(CUT)]
    (whole,) = await chat(gateway, cut, tools=[TOOL], stream=False)
    assert "tool_calls" not in whole["message"]
    assert '"city": "Lim' in whole["message"]["content"]


async def test_earlier_calls_and_their_results_are_in_the_prompt(gateway: RunningGateway) -> None:
    calls = [{"function": {"name": "weather", "arguments": {"city": city}}} for city in ("Lima", "Quito")]
    messages = [
        QUESTION,
        {"role": "assistant", "content": "", "thinking": "Two cities.", "tool_calls": calls},
        {"role": "tool", "content": "18", "tool_name": "weather"},
        {"role": "tool", "content": "20", "tool_name": "weather"},
    ]
    await chat(gateway, "Fine.", messages=messages, tools=[TOOL])
    prompt = prompt_of(gateway)
    assert "<think>\nTwo cities.\n</think>\n" + call(city="Lima") + call(city="Quito") in prompt
    assert prompt.endswith("<|im_start|>tool\n20<|im_end|>\n<|im_start|>assistant\n")


async def test_thinking_is_apart_from_the_answer(gateway: RunningGateway) -> None:
    answer = f"<think>\nLet me see.\n</think>\n\nWell.{call(city='Lima')}"
    lines = await chat(gateway, answer, tools=[TOOL], think=True)
    assert "".join(line["message"].get("thinking", "") for line in lines).strip() == "Let me see."
    assert "".join(line["message"]["content"] for line in lines).strip() == "Well."
    assert sum(len(line["message"].get("tool_calls", ())) for line in lines) == 1
    (whole,) = await chat(gateway, answer, think="high", stream=False)
    assert whole["message"]["thinking"].strip() == "Let me see."
    await chat(gateway, "Well.", think=False)
    assert prompt_of(gateway).endswith("<think>\n\n</think>\n\n")
    body = {"model": "tiny", "prompt": "Weather?", "stream": False}
    gateway.scheduler.answer = lambda *_: Answer(text=answer)
    reply = (await gateway.http.post("/api/generate", json=body)).json()
    assert reply["thinking"].strip() == "Let me see." and reply["response"].strip().startswith("Well.")
    raw = (await gateway.http.post("/api/generate", json=body | {"raw": True})).json()
    assert raw["response"] == answer and "thinking" not in raw


async def test_the_prompt_alone(gateway: RunningGateway) -> None:
    (reply,) = await chat(gateway, "never", tools=[TOOL], _debug_render_only=True)
    rendered = reply["_debug_info"]["rendered_template"]
    assert "<tools>" in rendered and rendered.endswith("<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n")
    body = {"model": "tiny", "prompt": "<|im_end|>", "raw": True, "_debug_render_only": True}
    generated = (await gateway.http.post("/api/generate", json=body)).json()
    assert generated["_debug_info"] == {"rendered_template": "<|im_end|>"}
    assert gateway.scheduler.requests == []


async def test_what_the_model_can_do(gateway: RunningGateway) -> None:
    shown = (await gateway.http.post("/api/show", json={"model": "tiny"})).json()
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert shown["output_format"] == {"name": "hermes", "source": "template"}
    (tagged,) = (await gateway.http.get("/api/tags")).json()["models"]
    assert tagged["capabilities"] == ["completion", "tools", "thinking"]


@pytest.mark.parametrize("stream", [False, True])
async def test_official_client_with_a_function(gateway: RunningGateway, stream: bool) -> None:
    answers = iter([f"<think>\nHm.\n</think>\n{call(city='Lima')}", "It is sunny."])
    texts: dict[str, str] = {}
    gateway.scheduler.answer = lambda request, _: Answer(
        text=texts.setdefault(request.request_id, texts.get(request.request_id) or next(answers))
    )
    client = ollama.AsyncClient(host=gateway.url)
    messages: list[Any] = [QUESTION]
    for _ in range(2):
        options: dict[str, Any] = {"model": "tiny", "messages": messages, "tools": [weather], "think": True}
        if stream:
            parts = [part.message async for part in await client.chat(**options, stream=True)]
            calls = [each for part in parts for each in part.tool_calls or ()]
            message = ollama.Message(
                role="assistant",
                content="".join(part.content or "" for part in parts),
                thinking="".join(part.thinking or "" for part in parts),
                tool_calls=calls,
            )
        else:
            message = (await client.chat(**options)).message
        messages.append(message)
        for each in message.tool_calls or ():
            result = weather(**each.function.arguments)
            messages.append({"role": "tool", "tool_name": each.function.name, "content": result})
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert (messages[1].thinking or "").strip() == "Hm."
    assert messages[3].content == "It is sunny."
    assert call(city="Lima") in prompt_of(gateway) and "tool\nSunny in Lima<|im_end|>" in prompt_of(gateway)
    await client.close()  # type: ignore[no-untyped-call]  # the package leaves it untyped


async def test_a_form_begins_after_the_thoughts(gateway: RunningGateway) -> None:
    form = {"type": "object", "properties": {"degrees": {"type": "integer"}}, "required": ["degrees"]}
    answer = '<think>\nWarm.\n</think>\n{"degrees": 18}'
    (whole,) = await chat(gateway, answer, think=True, format=form, stream=False)
    assert (whole["message"]["thinking"].strip(), whole["message"]["content"].strip()) == ("Warm.", '{"degrees": 18}')
    constraint = gateway.scheduler.requests[0].sampling.constraint
    assert "degrees" in constraint.grammar and constraint.reasoning.close.text == b"</think>"
    assert len(gateway.scheduler.requests) == 1
    (called,) = await chat(gateway, call(city="Lima"), tools=[TOOL], format=form, stream=False)
    assert called["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Lima"}
    both = gateway.scheduler.requests[-1].sampling.constraint.grammar
    assert "degrees" in both and "weather" in both


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=str)
async def test_a_call_can_be_required(gateway: RunningGateway, choice: Any) -> None:
    await chat(gateway, call(city="Lima"), tools=[TOOL], tool_choice=choice, stream=False)
    constraint = gateway.scheduler.requests[-1].sampling.constraint
    assert constraint.grammar and not constraint.triggers


async def test_no_tools_are_described_if_none_may_be_called(gateway: RunningGateway) -> None:
    await chat(gateway, "Hi", tools=[TOOL], tool_choice="none", stream=False)
    assert "weather" not in prompt_of(gateway) and not gateway.scheduler.requests[-1].sampling.HasField("constraint")


async def test_an_answer_may_be_limited_to_one_call(gateway: RunningGateway) -> None:
    await chat(gateway, call(city="Lima"), tools=[TOOL], stream=False)
    await chat(gateway, call(city="Lima"), tools=[TOOL], parallel_tool_calls=False, stream=False)
    several, one = (request.sampling.constraint.grammar for request in gateway.scheduler.requests)
    assert several != one


async def test_a_choice_of_an_unknown_tool_is_an_error(gateway: RunningGateway) -> None:
    body = {
        "model": "tiny",
        "messages": [QUESTION],
        "tools": [TOOL],
        "tool_choice": {"function": {"name": "x"}, "type": "function"},
    }
    response = await gateway.http.post("/api/chat", json=body)
    assert response.status_code == 400 and response.json() == {
        "error": "tool_choice: no tool is named 'x' (tools: 'weather')"
    }
