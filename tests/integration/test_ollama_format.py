"""Tests of `format` in Ollama's dialect: the constraint that reaches the scheduler, and the errors for wrong schemas."""

from typing import Any

import ollama
import pytest
from pydantic import BaseModel

from tests.fakes.gateway import RunningGateway
from tests.fakes.scheduler import Answer

CHAT: tuple[str, dict[str, Any]] = ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]})
GENERATE: tuple[str, dict[str, Any]] = ("/api/generate", {"prompt": "Hi"})
RAW: tuple[str, dict[str, Any]] = ("/api/generate", {"prompt": "Hi", "raw": True})


class Person(BaseModel):
    name: str
    age: int


@pytest.mark.parametrize("endpoint", [CHAT, GENERATE, RAW])
async def test_a_form_becomes_a_constraint(gateway: RunningGateway, endpoint: tuple[str, dict[str, Any]]) -> None:
    path, body = endpoint
    for form in ("json", {"type": "object"}, Person.model_json_schema(), {}, "", None):
        response = await gateway.http.post(path, json={"model": "tiny", "stream": False, **body, "format": form})
        assert response.status_code == 200, response.text
    grammars = [request.sampling.constraint.grammar for request in gateway.scheduler.requests]
    assert all(grammars[:4]) and not any(grammars[4:])
    assert grammars[0] == grammars[1] and "age" in grammars[2]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "object", "properties": {"a": {"not": {}}}}, "not"),
        ({"type": "nothing"}, "format"),
        ({"$ref": "#"}, "itself without end"),
        ("xml", 'format: must be "json" or a JSON Schema'),
    ],
)
@pytest.mark.parametrize("endpoint", [CHAT, GENERATE, RAW])
async def test_a_form_that_cannot_be_is_an_error(
    gateway: RunningGateway, endpoint: tuple[str, dict[str, Any]], form: Any, message: str
) -> None:
    path, body = endpoint
    response = await gateway.http.post(path, json={"model": "tiny", **body, "format": form})
    assert response.status_code == 400
    assert message in response.json()["error"] and "format" in response.json()["error"]
    assert gateway.scheduler.requests == []


async def test_official_client_with_a_model(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text='{"name": "Ada", "age": 36}')
    client = ollama.AsyncClient(host=gateway.url)
    answer = await client.chat("tiny", CHAT[1]["messages"], format=Person.model_json_schema())
    assert Person.model_validate_json(answer.message.content or "") == Person(name="Ada", age=36)
    generated = await client.generate("tiny", "Hi", format="json")
    assert generated.response == '{"name": "Ada", "age": 36}'
    await client.close()  # type: ignore[no-untyped-call]  # the package leaves it untyped
