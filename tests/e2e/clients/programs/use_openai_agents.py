"""OpenAI's Agents SDK on the Responses API, its default, and on chat completions."""

import asyncio
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import ANSWER, MODEL, QUESTION, REAL_URL, SCRIPTED_MODEL, SCRIPTED_URL, run_checks
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

set_tracing_disabled(True)


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Lima", "Oslo"]
    degrees: int = Field(ge=-50, le=50)


@function_tool
def get_weather(city: Literal["Lima", "Oslo"]) -> str:
    """Return the weather of a city."""
    return f"20 degrees in {city}"


def _model(kind, url=REAL_URL, name=MODEL):
    return kind(model=name, openai_client=AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))


def _scripted_agent(kind):
    return Agent(
        name="Agent", instructions="Be brief.", model=_model(kind, SCRIPTED_URL, SCRIPTED_MODEL), tools=[get_weather]
    )


def _output(kind):
    settings = ModelSettings(temperature=0, max_tokens=100)
    agent = Agent(name="Agent", model=_model(kind), output_type=Weather, model_settings=settings)
    output = Runner.run_sync(agent, QUESTION).final_output
    assert isinstance(output, Weather), output


def check_output_type_with_responses():
    _output(OpenAIResponsesModel)


def check_output_type_with_chat_completions():
    _output(OpenAIChatCompletionsModel)


def check_a_tool_with_responses():
    assert Runner.run_sync(_scripted_agent(OpenAIResponsesModel), QUESTION).final_output == ANSWER


def check_a_tool_with_chat_completions():
    assert Runner.run_sync(_scripted_agent(OpenAIChatCompletionsModel), QUESTION).final_output == ANSWER


def _streamed(kind):
    async def run():
        result = Runner.run_streamed(_scripted_agent(kind), QUESTION)
        async for _ in result.stream_events():
            pass
        return result.final_output

    assert asyncio.run(run()) == ANSWER


def check_a_streamed_tool_with_responses():
    _streamed(OpenAIResponsesModel)


def check_a_streamed_tool_with_chat_completions():
    _streamed(OpenAIChatCompletionsModel)


if __name__ == "__main__":
    run_checks(globals())
