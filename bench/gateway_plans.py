"""Requests to a gateway that is measured alone: each API that streams, and a long prompt."""

from typing import Any

from bench.raw_client import Plan
from bench.workloads import NEUTRAL, NEUTRAL_OPTIONS, WORDS

SHORT_PROMPT = "What is a pagoda?"
NUM_LONG_PROMPT_WORDS = 1000
CHAT_EVENT, COMPLETIONS_EVENT, OLLAMA_EVENT = '"delta":{"content":', '"finish_reason":null', '"done":false'
OPENAI_COUNT, OLLAMA_COUNT = r'"completion_tokens":(\d+)', r'"eval_count":(\d+)'
PROMPT_COUNT = r'"prompt_tokens":(\d+)'


def streaming_plans(model: str, *, num_requests: int, concurrency: int, output_len: int) -> dict[str, Plan]:
    """Return plans of long answers to a short prompt. Output tokens are counted."""
    messages = [{"role": "user", "content": SHORT_PROMPT}]
    openai = _openai(model, output_len)
    ollama = {"model": model, "options": {**NEUTRAL_OPTIONS, "num_predict": output_len}, "messages": messages}
    asked: dict[str, tuple[str, dict[str, Any], str, str]] = {
        "OpenAI chat": ("/v1/chat/completions", openai | {"messages": messages}, CHAT_EVENT, OPENAI_COUNT),
        "OpenAI completions": ("/v1/completions", openai | {"prompt": SHORT_PROMPT}, COMPLETIONS_EVENT, OPENAI_COUNT),
        "Ollama chat": ("/api/chat", ollama, OLLAMA_EVENT, OLLAMA_COUNT),
    }
    return {
        api: Plan(
            path=path,
            body=body,
            num_requests=num_requests,
            concurrency=concurrency,
            event_mark=event,
            count_pattern=count,
        )
        for api, (path, body, event, count) in asked.items()
    }


def prompt_plan(model: str, *, num_requests: int, concurrency: int) -> Plan:
    """Return a plan of short answers to a long prompt: body, template, tokenizer. Prompt tokens are counted."""
    words = (WORDS[index % len(WORDS)] for index in range(NUM_LONG_PROMPT_WORDS))
    return Plan(
        path="/v1/chat/completions",
        body=_openai(model, 1) | {"messages": [{"role": "user", "content": " ".join(words)}]},
        num_requests=num_requests,
        concurrency=concurrency,
        event_mark=CHAT_EVENT,
        count_pattern=PROMPT_COUNT,
    )


def _openai(model: str, max_tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        **NEUTRAL,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
