"""Tests of structured output with official clients, the real system and the real model: each answer obeys its rule.

The model is far too small to obey one by itself. So sampling is hot in these tests, and the grammar does all the work.
"""

import json
import re
from typing import Literal

import jsonschema_rs
import ollama
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from pydantic import BaseModel, Field

MODEL = "smollm2:135m"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Describe the weather in Lima."}]
SEEDS = range(2)


class Day(BaseModel):
    """Small enough to be complete within the limit of tokens."""

    sky: Literal["sunny", "cloudy", "rainy"]
    temperatures: list[int] = Field(min_length=2, max_length=2)
    windy: bool | None = None


TOOL: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
        },
    },
}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_of_pydantic_is_parsed(openai_client: OpenAI, seed: int) -> None:
    answer = openai_client.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=Day, seed=seed, temperature=2, max_tokens=300
    )
    day = answer.choices[0].message.parsed
    assert isinstance(day, Day) and len(day.temperatures) == 2
    assert answer.choices[0].finish_reason == "stop"


def test_any_object(openai_client: OpenAI) -> None:
    schema = {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "integer", "maximum": 99}}
    for fields in ({"response_format": {"type": "json_object"}}, {"json_schema": schema}, {"guided_json": schema}):
        answer = openai_client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=200, extra_body=fields
        )
        choice = answer.choices[0]
        if choice.finish_reason == "stop":  # a greedy model may write members without end
            assert isinstance(json.loads(choice.message.content or ""), dict)
        else:
            assert (choice.message.content or "").startswith("{")


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"regex": r"[A-Z][a-z]{2,8}: -?\d{1,2} C"}}, r"[A-Z][a-z]{2,8}: -?\d{1,2} C"),
        ({"structured_outputs": {"choice": ["sunny", "cloudy", "no idea"]}}, "sunny|cloudy|no idea"),
        (
            {"structured_outputs": {"grammar": 'root ::= day ("," day){0,2}\nday ::= [a-z]{3,5}'}},
            "[a-z]{3,5}(,[a-z]{3,5}){0,2}",
        ),
        ({"guided_regex": "(yes|no)!"}, "(yes|no)!"),
        ({"grammar": 'start: NUMBER "%"\nNUMBER: /[1-9][0-9]?/'}, "[1-9][0-9]?%"),
    ],
    ids=str,
)
def test_other_rules_in_chats_and_completions(openai_client: OpenAI, fields: dict[str, object], pattern: str) -> None:
    for seed in SEEDS:
        chat = openai_client.chat.completions.create(
            model=MODEL, messages=QUESTION, seed=seed, temperature=2, max_tokens=100, extra_body=fields
        )
        text = openai_client.completions.create(
            model=MODEL, prompt="The weather:", seed=seed, temperature=2, max_tokens=100, extra_body=fields
        )
        assert re.fullmatch(pattern, chat.choices[0].message.content or "")
        assert re.fullmatch(pattern, text.choices[0].text)
        assert chat.choices[0].finish_reason == text.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=str)
def test_a_required_call_is_made(openai_client: OpenAI, choice: object) -> None:
    for seed in SEEDS:
        with openai_client.chat.completions.stream(
            model=MODEL,
            messages=QUESTION,
            tools=[TOOL],
            tool_choice=choice,  # type: ignore[arg-type]
            parallel_tool_calls=False,
            seed=seed,
            temperature=2,
            max_tokens=300,
        ) as events:
            answer = events.get_final_completion().choices[0]
        assert answer.finish_reason == "tool_calls" and not answer.message.content
        assert answer.message.tool_calls is not None
        (call,) = answer.message.tool_calls
        assert call.function.name == "get_weather"
        parameters = TOOL["function"]["parameters"]
        assert jsonschema_rs.is_valid(parameters, json.loads(call.function.arguments))


def test_a_format_in_ollamas_api(ollama_client: ollama.Client) -> None:
    options = ollama.Options(temperature=2, seed=1, num_predict=300)
    chat = ollama_client.chat(
        MODEL, [{"role": "user", "content": "Weather?"}], format=Day.model_json_schema(), options=options
    )
    Day.model_validate_json(chat.message.content or "")
    text = ollama_client.generate(MODEL, "Weather?", format=Day.model_json_schema(), options=options)
    Day.model_validate_json(text.response or "")


def test_what_cannot_be_enforced_is_refused_by_name(openai_client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError, match=r"'uniqueItems' is not supported \(at properties.tags\)"):
        openai_client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            extra_body={"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}},
        )
