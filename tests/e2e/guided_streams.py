"""Streams that a schema holds to JSON, in both dialects: answers in a form, and calls that are required."""

import json
from typing import Any

import jsonschema_rs
import ollama
import openai

from tests.e2e.received import MODEL, Answer, OnChunk, Sample, take_choice, take_end

NUM_FREE = 32
"""Number of the first guided stream."""
GUIDED = range(NUM_FREE, NUM_FREE + 16)
# Its answers end before they have so many tokens: the texts have short limits.
MAX_TOKENS = 160
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "parity": {"enum": ["even", "odd"]},
        "value": {"type": "integer", "minimum": 0, "maximum": 9999},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "parity", "value", "words"],
    "additionalProperties": False,
}


async def ask_guided(
    openai_client: openai.AsyncOpenAI, ollama_client: ollama.AsyncClient, number: int, on_chunk: OnChunk
) -> Answer:
    """Request a stream. Each number is a different one, the same every time."""
    if number % 4 == 3:
        return {0: await _ollama(ollama_client, number, on_chunk)}
    return {0: await _openai(openai_client, number, on_chunk)}


def check_guided(answers: list[Answer]) -> None:
    """Check that each answer is JSON under the schema and ended by itself."""
    for answer in answers:
        for sample in answer.values():
            jsonschema_rs.validate(SCHEMA, json.loads(sample.text))
            assert sample.ends[0].startswith(("stop", "tool_calls")), sample.ends


async def _openai(client: openai.AsyncOpenAI, number: int, on_chunk: OnChunk) -> Sample:
    sample = Sample()
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Describe the number {number} in JSON."}],
        stream=True,
        max_tokens=MAX_TOKENS,
        seed=number,
        temperature=float(number % 2),
        extra_body={"return_token_ids": True, **_form(number)},
    )
    async for chunk in stream:
        on_chunk()
        for choice in chunk.choices:
            sample.text += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                sample.text += (call.function and call.function.arguments) or ""
            take_choice(sample, choice)
    return sample


async def _ollama(client: ollama.AsyncClient, number: int, on_chunk: OnChunk) -> Sample:
    sample = Sample()
    stream = await client.chat(
        MODEL,
        [{"role": "user", "content": f"Describe the number {number} in JSON."}],
        stream=True,
        format=SCHEMA,
        options={"num_predict": MAX_TOKENS, "seed": number, "temperature": float(number % 8 == 3)},
    )
    async for part in stream:
        on_chunk()
        sample.text += part.message.content or ""
        take_end(sample, part)
    return sample


def _form(number: int) -> dict[str, Any]:
    if number % 8 == 6:
        return {"structured_outputs": {"json": SCHEMA}}
    if number % 4 == 2:
        function = {"name": "describe", "parameters": SCHEMA, "strict": True}
        called = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
        return {**called, "parallel_tool_calls": False}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA}}}
