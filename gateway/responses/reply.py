"""The conversion of text events into a response: its events for a stream, and the object itself."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from gateway.answers.logprobs import AnswerLogprobs
from gateway.answers.text_events import SampleBegan, SampleEnded, TextDelta, TextEvents
from gateway.answers.text_request import SamplingChoice
from gateway.errors import ErrorKind, GatewayError
from gateway.responses.output_items import Output
from gateway.responses.schemas import FunctionTool, ReasoningConfig, ResponseRequest, ResponseTextFormat, TextConfig
from pagoda.wire.finished import FinishReason

JSONObject = dict[str, Any]

_ERROR_CODES = {ErrorKind.INVALID_REQUEST: "invalid_prompt", ErrorKind.OVERLOADED: "rate_limit_exceeded"}


class ResponseReply:
    """One response from its creation to its end."""

    def __init__(self, body: ResponseRequest, response_id: str, model: str) -> None:
        self.id = response_id
        self._request = described_request(body, model)
        self._state: JSONObject = {
            "status": "queued" if body.background else "in_progress",
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "usage": None,
        }
        self._created_at = int(time.time())
        self._output = Output(response_id, hides_reasoning=body.include_reasoning is False)
        self._sequence_number = 0
        self._logprobs = AnswerLogprobs()

    @property
    def has_begun(self) -> bool:
        """True if there have been events, so that an error is one as well."""
        return self._sequence_number > 0

    @property
    def response(self) -> JSONObject:
        """The response as it is now."""
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created_at,
            **self._request,
            **self._state,
            "output": self._output.as_json(),
        }

    def show_sampling(self, sampling: SamplingChoice) -> None:
        """Show the parameters that apply, after defaults."""
        values = {name: each.value for name, each in sampling.parameters.items()}
        self._request |= {"temperature": values.get("temperature"), "top_p": values.get("top_p")}

    def queue_events(self) -> Iterator[JSONObject]:
        """Yield the first events of a response in the background."""
        yield self._lifecycle("created")
        yield self._lifecycle("queued")

    async def stream_events(self, events: TextEvents) -> AsyncGenerator[JSONObject, None]:
        """Yield the events of the response: the last one has the whole response."""
        async with aclosing(events):
            async for event in events:
                match event:
                    case SampleBegan():
                        if self._sequence_number == 0:
                            yield self._lifecycle("created")
                        self._state["status"] = "in_progress"
                        yield self._lifecycle("in_progress")
                    case TextDelta():
                        self._logprobs.count_logprobs(event.logprobs)
                        for item_event in self._output.add_delta(event):
                            yield self._numbered(item_event)
                    case SampleEnded():
                        for last_event in self._finish(event):
                            yield last_event

    def fail(self, error: GatewayError) -> JSONObject:
        """End the response with an error, and return its last event."""
        self._output.abandon()
        code = _ERROR_CODES.get(error.kind, "server_error")
        self._state |= {"status": "failed", "error": {"code": code, "message": error.message}}
        return self._lifecycle("failed")

    def cancel(self) -> None:
        """End the response because the client has cancelled it."""
        self._output.abandon()
        self._state["status"] = "cancelled"

    def _finish(self, end: SampleEnded) -> Iterator[JSONObject]:
        is_cut = end.reason is FinishReason.LENGTH
        for item_event in self._output.finish(is_cut=is_cut):
            yield self._numbered(item_event)
        status = "incomplete" if is_cut else "completed"
        self._state |= {"status": status, "completed_at": int(time.time()), "usage": _usage(end)}
        if is_cut:
            self._state["incomplete_details"] = {"reason": "max_output_tokens"}
        yield self._lifecycle(status)

    def _lifecycle(self, stage: str) -> JSONObject:
        return self._numbered({"type": f"response.{stage}", "response": self.response})

    def _numbered(self, event: JSONObject) -> JSONObject:
        numbered = event | {"sequence_number": self._sequence_number}
        self._sequence_number += 1
        return numbered


def error_event(error: GatewayError) -> JSONObject:
    """Return the only event of a stream whose response could not be created."""
    body = {"code": error.code, "message": error.message, "param": error.param}
    return {"type": "error", **body, "sequence_number": 0}


def described_request(body: ResponseRequest, model: str) -> JSONObject:
    """Return the fields of a response that repeat its request."""
    text, reasoning = body.text or TextConfig(), body.reasoning or ReasoningConfig()
    return {
        "background": bool(body.background),
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": body.model or model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.is_stored,
        "temperature": body.temperature,
        "text": {"format": _format(text.format), "verbosity": text.verbosity or "medium"},
        "tool_choice": _tool_choice(body),
        "tools": [_tool(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": body.truncation or "disabled",
        "user": body.user,
    }


def _format(given: ResponseTextFormat | None) -> JSONObject:
    if given is None or given.type != "json_schema":
        return {"type": "text" if given is None else given.type}
    return {"type": given.type, "name": given.name or "", "schema": given.schema_, "strict": given.strict is not False}


def _tool_choice(body: ResponseRequest) -> Any:
    if body.tool_choice is None or isinstance(body.tool_choice, str):
        return body.tool_choice or "auto"
    return body.tool_choice.model_dump(exclude_none=True)


def _tool(tool: FunctionTool) -> JSONObject:
    return {
        "type": tool.type,
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def _usage(end: SampleEnded) -> JSONObject:
    usage = end.usage
    return {
        "input_tokens": usage.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.num_output_tokens,
        "output_tokens_details": {"reasoning_tokens": end.num_reasoning_tokens},
        "total_tokens": usage.num_prompt_tokens + usage.num_output_tokens,
    }
