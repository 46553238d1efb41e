"""instructor in the modes that ask for tools, for JSON under a schema and for any JSON, whole and partial."""

from typing import Literal

import instructor
import openai
from checks import MODEL, QUESTION, REAL_URL, run_checks
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Lima", "Oslo"]
    degrees: int = Field(ge=-50, le=50)


ASKED = {
    "model": MODEL,
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 100,
    "temperature": 0,
    "max_retries": 0,
}


def _client(mode):
    return instructor.from_openai(openai.OpenAI(base_url=f"{REAL_URL}/v1", api_key="none", max_retries=0), mode=mode)


def _is_weather(mode):
    answer = _client(mode).chat.completions.create(response_model=Weather, **ASKED)
    assert isinstance(answer, Weather), answer


def check_tools():
    _is_weather(instructor.Mode.TOOLS)


def check_strict_tools():
    _is_weather(instructor.Mode.TOOLS_STRICT)


def check_json_schema():
    _is_weather(instructor.Mode.JSON_SCHEMA)


def check_partial_answers():
    stream = _client(instructor.Mode.TOOLS).chat.completions.create_partial(response_model=Weather, **ASKED)
    *_, last = stream
    assert Weather.model_validate(last.model_dump()), last


if __name__ == "__main__":
    run_checks(globals())
