"""The record of one request from arrival to end: its metrics and its one log line, which never contain its text."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from gateway.answers.text_request import SamplingChoice
from gateway.errors import ErrorKind, GatewayError
from gateway.http.http_context import HTTPContext
from gateway.telemetry.metrics import GatewayMetrics
from pagoda.models.sampling_defaults import Parameter, Source
from pagoda.wire.constraint import Constraint
from pagoda.wire.events import Moved, Started, Tokens
from pagoda.wire.finished import Finished
from pagoda.wire.inference_request import InferenceRequest

logger = logging.getLogger(__name__)


class RequestRecord:
    """The record of one request, which observes its events, and logs it once at its end."""

    def __init__(
        self, request: InferenceRequest, sampling: SamplingChoice, http: HTTPContext, metrics: GatewayMetrics
    ) -> None:
        self._request = request
        self._chosen = sampling.parameters
        self._http = http
        self._trace = http.trace
        self._metrics = metrics.for_model(request.model)
        self._arrived_at = time.monotonic()
        self._first_token_at: float | None = None
        self._last_token_at: list[float | None] = [None] * request.num_samples
        self._ended = [False] * request.num_samples
        self._num_preemptions = 0
        self._worker_id: str | None = None
        self._num_cached_tokens = 0
        self._num_output_tokens = [0] * request.num_samples
        self._num_calls = 0
        self._num_reasoning_tokens = 0
        self._outcome = "abort"
        self._constraint = _kind(request.sampling.constraint)
        self._metrics.count_constraint(self._constraint)
        self._trace.trace_request(request)

    def record_start(self, event: Started) -> None:
        if self._worker_id is None:
            self._worker_id = event.worker_id
            self._num_cached_tokens = event.num_cached_tokens
            self._metrics.prompt_tokens.inc(len(self._request.prompt_token_ids))

    def record_tokens(self, event: Tokens) -> None:
        now = time.monotonic()
        previous = self._last_token_at[event.sample_index]
        if previous is not None:
            self._metrics.itl.observe(now - previous)
        elif self._first_token_at is None:
            self._first_token_at = now
            self._metrics.ttft.observe(now - self._arrived_at)
            self._trace.trace_first_token(now - self._arrived_at)
        self._last_token_at[event.sample_index] = now
        self._num_output_tokens[event.sample_index] += len(event.token_ids)
        self._metrics.generation_tokens.inc(len(event.token_ids))

    def record_move(self, event: Moved) -> None:
        """Record that a sample resumed on another worker or scheduler."""
        self._metrics.moved.inc()
        self._trace.trace_move(event)

    def record_finish(self, event: Finished) -> None:
        num_output_tokens = event.usage.num_output_tokens
        self._num_output_tokens[event.sample_index] = num_output_tokens
        self._outcome = event.reason.value
        self._ended[event.sample_index] = True
        self._num_preemptions += event.timings.num_preemptions
        metrics, timings = self._metrics, event.timings
        metrics.count_end(event.reason.value)
        duration_s = time.monotonic() - self._arrived_at
        self._trace.trace_finish(event, duration_s)
        metrics.e2e.observe(duration_s)
        metrics.queue_time.observe(timings.queue_s)
        metrics.prefill_time.observe(timings.prefill_s)
        metrics.decode_time.observe(timings.decode_s)
        metrics.request_prompt_tokens.observe(event.usage.num_prompt_tokens)
        metrics.request_generation_tokens.observe(num_output_tokens)
        if num_output_tokens > 1:
            metrics.tpot.observe(timings.decode_s / (num_output_tokens - 1))

    def record_output(self, *, num_calls: int, num_reasoning_tokens: int) -> None:
        """Record what the text of a finished sample consists of."""
        self._num_calls += num_calls
        self._num_reasoning_tokens += num_reasoning_tokens
        self._metrics.tool_calls.inc(num_calls)

    def record_failure(self, error: GatewayError) -> None:
        self._trace.trace_failure(error)
        self._outcome = "abort" if error.kind is ErrorKind.CLIENT_CLOSED else "error"

    def close_record(self) -> None:
        """Log the ended request, and count its unfinished samples under its outcome."""
        for ended in self._ended:
            if not ended:
                self._outcome = "error" if self._outcome == "error" else "abort"
                self._metrics.count_end(self._outcome)
        constraint = self._request.sampling.constraint
        logger.info(
            "request finished",
            extra={
                "request_id": self._http.request_id,
                "inference_id": self._request.request_id,
                "tenant": self._http.caller.tenant,
                "key": self._http.caller.key_name,
                "model": self._request.model,
                "worker": self._worker_id,
                "num_prompt_tokens": len(self._request.prompt_token_ids),
                "num_cached_tokens": self._num_cached_tokens,
                "num_output_tokens": sum(self._num_output_tokens),
                "num_reasoning_tokens": self._num_reasoning_tokens,
                "num_calls": self._num_calls,
                "constraint": self._constraint,
                "grammar": "" if constraint is None else constraint.grammar_name,
                "num_preemptions": self._num_preemptions,
                "ttft_s": None if self._first_token_at is None else round(self._first_token_at - self._arrived_at, 4),
                "duration_s": round(time.monotonic() - self._arrived_at, 4),
                "finish_reason": self._outcome,
                "sampling": self._sampling(),
                "sampling_from": _by_source(self._chosen),
            },
        )

    def _sampling(self) -> dict[str, Any]:
        """Return the parameters that applied, named as in pagoda/models/sampling_defaults.py. Of stop strings only their number is
        logged, because they are text."""
        sampling = self._request.sampling
        values = {name: each.value for name, each in self._chosen.items()}
        if "stop" in values:
            values["stop"] = len(values["stop"])
        return values | {"num_predict": sampling.max_tokens, "seed": sampling.seed}


def _kind(constraint: Constraint | None) -> str:
    """Return what the constraint holds: the whole answer, the calls in it, or the reasoning alone."""
    if constraint is None:
        return "none"
    if not constraint.grammar:
        return "reasoning"
    return "calls" if constraint.triggers else "answer"


def _by_source(chosen: Mapping[str, Parameter]) -> dict[str, list[str]]:
    """Return the parameters' names by source. Those that are not listed have the API's own values."""
    named: dict[str, list[str]] = {}
    for name, parameter in chosen.items():
        if parameter.source is not Source.API:
            named.setdefault(parameter.source.value, []).append(name)
    return named
