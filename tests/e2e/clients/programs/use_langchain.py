"""LangChain on both dialects: structured output in each method, tools, and a history with tools."""

from typing import Literal

from checks import ANSWER, MODEL, QUESTION, REAL_URL, SCRIPTED_MODEL, SCRIPTED_URL, run_checks
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Lima", "Oslo"]
    degrees: int = Field(ge=-50, le=50)


@tool
def get_weather(city: Literal["Lima", "Oslo"]) -> str:
    """Return the weather of a city."""
    return f"20 degrees in {city}"


def openai_chat(url=REAL_URL, model=MODEL, **fields):
    common = {"api_key": "none", "temperature": 0, "max_tokens": 200, "max_retries": 0, "timeout": 300}
    return ChatOpenAI(base_url=f"{url}/v1", model=model, **common, **fields)


def scripted_openai(**fields):
    return openai_chat(SCRIPTED_URL, SCRIPTED_MODEL, **fields)


def ollama_chat():
    return ChatOllama(base_url=REAL_URL, model=MODEL, temperature=0, num_predict=100)


def scripted_ollama():
    return ChatOllama(base_url=SCRIPTED_URL, model=SCRIPTED_MODEL)


def _is_weather(chat, method):
    answer = chat.with_structured_output(Weather, method=method).invoke(QUESTION)
    assert isinstance(answer, Weather), answer


def check_openai_json_schema():
    _is_weather(openai_chat(), "json_schema")


def check_openai_function_calling():
    _is_weather(openai_chat(), "function_calling")


def check_openai_json_mode():
    structured = openai_chat().with_structured_output(Weather, method="json_mode", include_raw=True)
    answer = structured.invoke(f"{QUESTION} Answer in one line of JSON.")["raw"]
    assert answer.content.startswith("{"), answer


def check_ollama_json_schema():
    _is_weather(ollama_chat(), "json_schema")


def check_ollama_json_mode():
    structured = ollama_chat().with_structured_output(Weather, method="json_mode", include_raw=True)
    answer = structured.invoke(f"{QUESTION} Answer in JSON.")["raw"]
    assert answer.content.startswith("{"), answer


def check_openai_tool_choice_any():
    (call,) = (
        openai_chat()
        .bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
        .invoke(QUESTION)
        .tool_calls
    )
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Lima", "Oslo"), call


def _tool_loop(chat):
    bound = chat.bind_tools([get_weather])
    messages = [HumanMessage(QUESTION)]
    asked = bound.invoke(messages)
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Lima"}), call
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = bound.invoke([*messages, asked, result])
    assert answer.content == ANSWER and not answer.tool_calls, answer


def _streamed_call(chat):
    whole = None
    for chunk in chat.bind_tools([get_weather]).stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Lima"}), call


def check_openai_tools():
    _tool_loop(scripted_openai())


def check_openai_streamed_tools():
    _streamed_call(scripted_openai())


def check_openai_responses_tools():
    _tool_loop_of_responses(scripted_openai(use_responses_api=True))


def _tool_loop_of_responses(chat):
    bound = chat.bind_tools([get_weather])
    asked = bound.invoke(QUESTION)
    (call,) = asked.tool_calls
    answer = bound.invoke([HumanMessage(QUESTION), asked, get_weather.invoke(call)])
    assert answer.text == ANSWER, answer


def check_ollama_tools():
    _tool_loop(scripted_ollama())


def check_ollama_streamed_tools():
    _streamed_call(scripted_ollama())


if __name__ == "__main__":
    run_checks(globals())
