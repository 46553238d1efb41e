"""Tests of the Responses API with the official client, against the real system and the real model."""

import json
from typing import Annotated, Any, Literal

from openai import OpenAI
from pydantic import BaseModel, Field

MODEL = "smollm2:135m"
QUESTION = "What is the capital of Japan?"


class Place(BaseModel):
    city: Annotated[str, Field(max_length=20)]
    size: Literal["small", "large"]


TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


def test_a_conversation_continues_with_a_cached_prefix(openai_client: OpenAI) -> None:
    first = openai_client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=32)
    assert "Tokyo" in first.output_text and first.status == "completed"
    second = openai_client.responses.create(
        model=MODEL, input="And of Peru?", previous_response_id=first.id, temperature=0, max_output_tokens=16
    )
    assert first.usage is not None and second.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens // 16 * 16
    assert openai_client.responses.retrieve(second.id).output_text == second.output_text


def test_a_stream_says_the_same(openai_client: OpenAI) -> None:
    whole = openai_client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=32)
    with openai_client.responses.stream(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=32) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        streamed = stream.get_final_response()
    assert text == streamed.output_text == whole.output_text
    assert streamed.usage is not None and whole.usage is not None
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_a_schema_is_obeyed(openai_client: OpenAI) -> None:
    response = openai_client.responses.parse(
        model=MODEL, input="Describe Tokyo.", text_format=Place, temperature=0, max_output_tokens=400
    )
    assert response.status == "completed"
    assert response.output_parsed is not None and response.output_parsed.size in ("small", "large")


def test_a_call_that_is_required_is_valid(openai_client: OpenAI) -> None:
    choices: tuple[Any, ...] = ("required", {"type": "function", "name": "get_weather"})
    for choice in choices:
        response = openai_client.responses.create(
            model=MODEL,
            input="Hello!",
            tools=[TOOL],
            tool_choice=choice,
            parallel_tool_calls=False,
            temperature=0,
            max_output_tokens=200,
        )
        assert response.status == "completed"
        [call] = [item for item in response.output if item.type == "function_call"]
        arguments = json.loads(call.arguments)
        assert call.name == "get_weather" and arguments["unit"] in ("celsius", "fahrenheit")
        assert isinstance(arguments["city"], str) and len(arguments["city"]) <= 20
