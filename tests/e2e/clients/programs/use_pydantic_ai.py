"""pydantic-ai: each kind of output type, and an agent with a tool."""

import asyncio
from typing import Literal

from checks import ANSWER, MODEL, QUESTION, REAL_URL, SCRIPTED_MODEL, SCRIPTED_URL, run_checks
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Lima", "Oslo"]
    degrees: int = Field(ge=-50, le=50)


SETTINGS = {"temperature": 0, "max_tokens": 100}


def chat(provider=OpenAIProvider):
    return OpenAIChatModel(MODEL, provider=provider(base_url=f"{REAL_URL}/v1", api_key="none"))


def scripted(model=OpenAIChatModel):
    return model(SCRIPTED_MODEL, provider=OpenAIProvider(base_url=f"{SCRIPTED_URL}/v1", api_key="none"))


def _output(output_type, model):
    return Agent(model, output_type=output_type, model_settings=SETTINGS, retries=0).run_sync(QUESTION).output


def check_output_by_tool():
    assert isinstance(_output(Weather, chat()), Weather)


def check_output_by_one_of_two_tools():
    assert isinstance(
        _output([ToolOutput(Weather, name="weather"), ToolOutput(bool, name="yes")], chat()), Weather | bool
    )


def check_output_by_schema():
    assert isinstance(_output(NativeOutput(Weather), chat()), Weather)


def check_output_by_schema_with_ollamas_provider():
    assert isinstance(_output(NativeOutput(Weather), chat(OllamaProvider)), Weather)


def check_output_by_schema_with_responses():
    model = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=f"{REAL_URL}/v1", api_key="none"))
    assert isinstance(_output(NativeOutput(Weather), model), Weather)


def _agent(model):
    agent = Agent(model, retries=0)

    @agent.tool_plain
    def get_weather(city: Literal["Lima", "Oslo"]) -> str:
        """Return the weather of a city."""
        return f"20 degrees in {city}"

    return agent


def check_an_agent_with_a_tool():
    assert _agent(scripted()).run_sync(QUESTION).output == ANSWER


def check_an_agent_with_a_tool_with_responses():
    assert _agent(scripted(OpenAIResponsesModel)).run_sync(QUESTION).output == ANSWER


def check_a_streamed_agent_with_a_tool():
    async def run():
        async with _agent(scripted()).run_stream(QUESTION) as result:
            return [text async for text in result.stream_text(delta=True)]

    assert "".join(asyncio.run(run())) == ANSWER


if __name__ == "__main__":
    run_checks(globals())
