"""litellm on the three dialects: schemas, tools, streams."""

import asyncio
import json
from typing import Literal

import litellm
from checks import ANSWER, MODEL, QUESTION, REAL_URL, SCRIPTED_MODEL, SCRIPTED_URL, run_checks
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Lima", "Oslo"]
    degrees: int = Field(ge=-50, le=50)


PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Lima", "Oslo"]}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Return the weather of a city.", "parameters": PARAMETERS},
}
MESSAGES = [{"role": "user", "content": QUESTION}]


def _ask(provider, *, url, model, **fields):
    base = f"{url}/v1" if provider == "openai" else url
    return litellm.completion(
        model=f"{provider}/{model}", api_base=base, api_key="none", messages=fields.pop("messages", MESSAGES), **fields
    )


def _real(provider, **fields):
    return _ask(provider, url=REAL_URL, model=MODEL, max_tokens=100, temperature=0, **fields)


def _scripted(provider, **fields):
    return _ask(provider, url=SCRIPTED_URL, model=SCRIPTED_MODEL, max_tokens=200, tools=[TOOL], **fields)


def _is_weather(provider):
    Weather.model_validate_json(_real(provider, response_format=Weather).choices[0].message.content)


def check_openai_schema():
    _is_weather("openai")


def check_ollama_schema():
    _is_weather("ollama_chat")


def check_openai_required_tool():
    answer = _real("openai", tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Lima", "Oslo"), call


def check_anthropic_required_tool():
    answer = _real("anthropic", tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Lima", "Oslo"), call


def _tool_loop(provider):
    asked = _scripted(provider).choices[0].message
    (call,) = asked.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Lima"}), call
    result = {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": "20 degrees in Lima"}
    answer = _scripted(provider, messages=[*MESSAGES, asked.model_dump(), result])
    assert answer.choices[0].message.content == ANSWER, answer


def _streamed_call(provider):
    chunks = list(_scripted(provider, stream=True))
    (call,) = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Lima"}), call


def check_openai_tools():
    _tool_loop("openai")


def check_openai_streamed_tools():
    _streamed_call("openai")


def check_ollama_tools():
    _tool_loop("ollama_chat")


def check_ollama_streamed_tools():
    _streamed_call("ollama_chat")


def check_anthropic_tools():
    _tool_loop("anthropic")


def check_anthropic_streamed_tools():
    _streamed_call("anthropic")


def check_messages_for_a_model_of_openais_api():
    """litellm translates Anthropic's messages for a server with OpenAI's API."""
    message = asyncio.run(
        litellm.anthropic.messages.acreate(
            model=f"openai/{SCRIPTED_MODEL}",
            api_base=f"{SCRIPTED_URL}/v1",
            api_key="none",
            max_tokens=200,
            messages=MESSAGES,
            tools=[{"name": "get_weather", "description": "Return the weather.", "input_schema": PARAMETERS}],
        )
    )
    (block,) = [block for block in message["content"] if block["type"] == "tool_use"]
    assert (block["name"], block["input"]) == ("get_weather", {"city": "Lima"}), message


if __name__ == "__main__":
    run_checks(globals())
