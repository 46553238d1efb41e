"""The one path from a prompt in tokens to a stream of text, for all APIs, streaming or not.

It sends a request to a scheduler, reports where a stop string ended a sample, and keeps the record of each request.
"""

import secrets
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from gateway.answers.logprobs import PromptScore
from gateway.answers.request_record import RequestRecord
from gateway.answers.sample_text import SampleText
from gateway.answers.text_events import SampleBegan, SampleEnded, TextEvents
from gateway.answers.text_request import TextRequest, fit_to_window
from gateway.errors import ErrorKind, GatewayError, unavailable
from gateway.http.http_context import HTTPContext
from gateway.http.streaming import merged
from gateway.models.served_model import ServedModel
from gateway.models.served_models import ServedModels
from gateway.telemetry.metrics import GatewayMetrics
from gateway.upstream.open_request import OpenRequest
from gateway.upstream.placement import Placement
from pagoda.api_keys.keyring import Caller, ScopeMissingError
from pagoda.wire.events import Moved, PromptLogprobs, Started, Tokens
from pagoda.wire.finished import Finished, FinishReason
from pagoda.wire.inference_request import InferenceRequest


class TextGenerator:
    """The generator of text events. It sends each request to a scheduler and turns its tokens into text."""

    def __init__(
        self,
        placement: Placement,
        models: ServedModels,
        metrics: GatewayMetrics,
        *,
        timeout_s: float | None = None,
    ) -> None:
        self._placement = placement
        self._models = models
        self._metrics = metrics
        self._timeout_s = timeout_s

    async def fit_requests(self, model: ServedModel, requests: Sequence[TextRequest]) -> list[TextRequest]:
        """Return the requests, fitted to the model's window. Raises the error of the first that does not fit."""
        window = await self.window_of(model)
        return [fit_to_window(request, window) for request in requests]

    async def window_of(self, model: ServedModel) -> int:
        """Return how many tokens a prompt and its answer may have together."""
        return (await self._models.model_info(model.model)).max_model_len

    def generate_text(self, model: ServedModel, requests: Sequence[TextRequest], http: HTTPContext) -> TextEvents:
        """Yield the events of all requests, which must fit the window. Samples are numbered across the prompts, in their order.

        Raises FORBIDDEN if the caller's key does not allow the priority.
        """
        streams, first_index = [], 0
        group_id = uuid.uuid4().hex if len(requests) > 1 else ""
        for request in requests:
            inference_request = replace(self._inference_request(model, request, http), group_id=group_id)
            streams.append(self._generate_one(model, request, inference_request, http, first_index))
            first_index += request.num_samples
        return streams[0] if len(streams) == 1 else merged(streams)

    async def _generate_one(
        self,
        model: ServedModel,
        request: TextRequest,
        inference_request: InferenceRequest,
        http: HTTPContext,
        first_index: int,
    ) -> TextEvents:
        record = RequestRecord(inference_request, request.sampling, http, self._metrics)
        try:
            opened = await self._placement.open_request(inference_request)
            try:
                async with aclosing(_text_events(opened, request, model, record)) as events:
                    async for event in events:
                        yield replace(event, index=event.index + first_index) if first_index else event
            finally:
                opened.cancel_request()
        except GatewayError as error:
            record.record_failure(error)
            raise
        finally:
            record.close_record()

    def _inference_request(self, model: ServedModel, request: TextRequest, http: HTTPContext) -> InferenceRequest:
        seed = secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed
        trace_headers = http.trace.headers()
        return InferenceRequest(
            request_id=uuid.uuid4().hex,
            model=model.name,
            prompt_token_ids=request.prompt_token_ids,
            sampling=replace(request.sampling.params, seed=seed),
            num_samples=request.num_samples,
            timeout_s=self._timeout_s,
            tenant=http.caller.tenant,
            cache_salt=http.caller.cache_salt(request.cache_salt),
            priority=_priority(request, http.caller),
            keep_alive_s=request.keep_alive_s,
            keep_alive_only_prolongs=not http.caller.may_unload,
            traceparent=trace_headers.get("traceparent", ""),
            tracestate=trace_headers.get("tracestate", ""),
        )


def _priority(request: TextRequest, caller: Caller) -> int:
    try:
        return caller.priority(request.priority)
    except ScopeMissingError as error:
        raise GatewayError(ErrorKind.FORBIDDEN, f"{error}.", param="priority") from None


async def _text_events(
    opened: OpenRequest, request: TextRequest, model: ServedModel, record: RequestRecord
) -> TextEvents:
    """Yield the text of the samples as it arrives, and the other events that the client sees."""
    samples = [SampleText(index, request, model) for index in range(request.num_samples)]
    wants_scores = request.sampling.params.num_prompt_logprobs is not None
    score = PromptScore(request, model.tokenizer)
    async for event in opened:
        match event:
            case Started():
                record.record_start(event)
                yield SampleBegan(index=event.sample_index, num_cached_tokens=event.num_cached_tokens)
                # A prompt of one token has no log-probabilities to wait for.
                if wants_scores:
                    score.begin_sample(event.sample_index)
                    for scored in await score.whole_scores():
                        yield scored
            case PromptLogprobs():
                score.add_scores(event)
                for scored in await score.whole_scores():
                    yield scored
            case Tokens():
                record.record_tokens(event)
                sample = samples[event.sample_index]
                delta = sample.add_tokens(event)
                if sample.matched_stop is not None:
                    opened.finish_sample(event.sample_index, sample.num_tokens)
                if delta is not None:
                    yield delta
            case Moved():
                record.record_move(event)
            case Finished():
                sample = samples[event.sample_index]
                event = sample.billed_finish(event)
                record.record_finish(event)
                if event.reason is FinishReason.ABORT:
                    raise unavailable("The server ended the request. It is safe to try again.")
                if (rest := sample.flush_text()) is not None:
                    yield rest
                record.record_output(num_calls=sample.num_calls, num_reasoning_tokens=sample.num_reasoning_tokens)
                yield _sample_ended(event, sample, opened.generated[event.sample_index])


def _sample_ended(finished: Finished, sample: SampleText, generated: Sequence[int]) -> SampleEnded:
    return SampleEnded(
        index=finished.sample_index,
        reason=finished.reason,
        stop_reason=sample.matched_stop or finished.stop_token_id,
        usage=finished.usage,
        timings=finished.timings,
        token_ids=tuple(generated[: finished.usage.num_output_tokens]),
        num_calls=sample.num_calls,
        num_reasoning_tokens=sample.num_reasoning_tokens,
    )
