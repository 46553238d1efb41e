"""From a prompt in tokens to a stream of text, the one path that both dialects take, streaming or not.

Detokenizes, finds stop strings and tells the scheduler where they ended a sample, gives log-probabilities their text, and keeps
the record of each request. Knows nothing about HTTP and about either dialect's words.
"""

import secrets
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from gateway.detokenizer import Detokenizer
from gateway.errors import GatewayError, InvalidRequestError, PromptTooLongError, unavailable
from gateway.inference import (
    Finished,
    FinishReason,
    InferenceRequest,
    Logprobs,
    Started,
    Timings,
    Tokens,
    Usage,
)
from gateway.metrics import GatewayMetrics
from gateway.open_request import OpenRequest
from gateway.request_record import RequestRecord
from gateway.scheduler_client import SchedulerClient
from gateway.served_models import ServedModel, ServedModels
from gateway.stop_strings import StopMatcher
from gateway.streaming import merged
from gateway.tokenizer import Tokenizer
from pagoda.sampling import SamplingParams

# JSON has no infinity; this is what vLLM says in its place.
LOWEST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """One prompt, as a dialect understood it."""

    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    """Without a seed; that is `seed`."""
    seed: int | None
    """None draws one at random."""
    stops: tuple[str, ...] = ()
    num_samples: int = 1
    max_total_tokens: int | None = None
    """The client's own limit on prompt and output together, besides the model's."""
    cache_salt: str = ""
    prompt_field: str
    """What the dialect calls the prompt, for errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPContext:
    """What a request inherits from the HTTP request it came with."""

    request_id: str
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """A token with its log-probability. `top` has its alternatives, best first, and is empty for the alternatives themselves."""

    token_id: int
    text: str
    utf8: bytes
    logprob: float
    top: tuple["TokenText", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBegan:
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """More text of a sample: whole characters, nothing that may yet become a stop string."""

    index: int
    text: str
    logprobs: tuple[TokenText, ...]
    """Of the tokens whose text came free; empty unless asked for."""
    num_tokens: int
    """Tokens of the sample so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEnded:
    index: int
    reason: FinishReason
    stop_reason: str | int | None
    """The stop string or stop token id that ended it; None for the model's own end and for a limit."""
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...]


TextEvent = SampleBegan | TextDelta | SampleEnded
TextEvents = AsyncGenerator[TextEvent, None]


class TextGenerator:
    def __init__(
        self,
        scheduler: SchedulerClient,
        models: ServedModels,
        metrics: GatewayMetrics,
        *,
        timeout_s: float | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._models = models
        self._metrics = metrics
        self._timeout_s = timeout_s

    async def generate(self, model: ServedModel, requests: Sequence[TextRequest], http: HTTPContext) -> TextEvents:
        """Check the requests against the model's window; the events of all, each prompt's samples numbered behind the last's."""
        window = (await self._models.info(model)).max_model_len
        fitted = [fit_to_window(request, window) for request in requests]
        streams, first_index = [], 0
        for request in fitted:
            streams.append(self._generate_one(model, request, http, first_index))
            first_index += request.num_samples
        return streams[0] if len(streams) == 1 else merged(streams)

    async def _generate_one(
        self, model: ServedModel, request: TextRequest, http: HTTPContext, first_index: int
    ) -> TextEvents:
        inference_request = self._inference_request(model, request, http)
        record = RequestRecord(inference_request, http.request_id, self._metrics)
        try:
            opened = self._scheduler.open(inference_request)
            try:
                async with aclosing(_text_events(opened, request, model, record)) as events:
                    async for event in events:
                        yield replace(event, index=event.index + first_index) if first_index else event
            finally:
                opened.cancel()
        except GatewayError as error:
            record.failed(error)
            raise
        finally:
            record.close()

    def _inference_request(self, model: ServedModel, request: TextRequest, http: HTTPContext) -> InferenceRequest:
        seed = secrets.randbits(64) if request.seed is None else request.seed
        return InferenceRequest(
            request_id=uuid.uuid4().hex,
            model=model.name,
            prompt_token_ids=request.prompt_token_ids,
            sampling=replace(request.sampling, seed=seed),
            num_samples=request.num_samples,
            timeout_s=self._timeout_s,
            cache_salt=request.cache_salt,
            traceparent=http.traceparent,
            tracestate=http.tracestate,
        )


def fit_to_window(request: TextRequest, window: int) -> TextRequest:
    """A prompt that leaves no room is refused; a max_tokens that would not fit becomes what does."""
    if request.max_total_tokens is not None:
        window = min(window, request.max_total_tokens)
    num_prompt_tokens = len(request.prompt_token_ids)
    if num_prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty.", param=request.prompt_field)
    if num_prompt_tokens >= window:
        raise PromptTooLongError(num_prompt_tokens=num_prompt_tokens, window=window, param=request.prompt_field)
    room = window - num_prompt_tokens
    sampling = request.sampling
    max_tokens = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
    sampling = replace(sampling, max_tokens=max_tokens, min_tokens=min(sampling.min_tokens, max_tokens))
    return replace(request, sampling=sampling)


async def _text_events(
    opened: OpenRequest, request: TextRequest, model: ServedModel, record: RequestRecord
) -> TextEvents:
    samples = [_SampleText(index, request, model) for index in range(request.num_samples)]
    async for event in opened:
        match event:
            case Started():
                record.started(event)
                yield SampleBegan(index=event.sample_index)
            case Tokens():
                record.tokens(event)
                sample = samples[event.sample_index]
                delta = sample.push(event)
                if sample.matched_stop is not None:
                    opened.finish(event.sample_index, sample.num_tokens)
                if delta is not None:
                    yield delta
            case Finished():
                sample = samples[event.sample_index]
                event = sample.billed(event)
                record.finished(event)
                if event.reason is FinishReason.ABORT:
                    raise unavailable("The request was ended by the server. It is safe to try again.")
                if (rest := sample.flush()) is not None:
                    yield rest
                yield SampleEnded(
                    index=event.sample_index,
                    reason=event.reason,
                    stop_reason=sample.matched_stop or event.stop_token_id,
                    usage=event.usage,
                    timings=event.timings,
                    token_ids=tuple(opened.generated[event.sample_index][: event.usage.num_output_tokens]),
                )


class _SampleText:
    """The text of one sample, as far as it can be told."""

    def __init__(self, index: int, request: TextRequest, model: ServedModel) -> None:
        self.num_tokens = 0
        self.matched_stop: str | None = None
        self._index = index
        self._tokenizer = model.tokenizer
        self._detokenizer = Detokenizer(model.tokenizer)
        self._matcher = StopMatcher(request.stops)
        self._min_tokens = request.sampling.min_tokens
        ending = () if request.sampling.ignore_eos else model.model.eos_token_ids
        # A token that ends the sample is counted, but it is not part of the answer.
        self._textless = frozenset((*request.sampling.stop_token_ids, *ending))
        self._logprobs: list[TokenText] = []

    def push(self, tokens: Tokens) -> TextDelta | None:
        if self.matched_stop is not None:
            return None
        text = ""
        for position, token_id in enumerate(tokens.token_ids):
            self.num_tokens += 1
            if tokens.logprobs:
                self._logprobs.append(_token_text(self._tokenizer, token_id, tokens.logprobs[position]))
            if token_id not in self._textless:
                text += self._release(self._detokenizer.push((token_id,)))
            if self.matched_stop is not None:
                break
        return self._delta(text)

    def flush(self) -> TextDelta | None:
        """What was held back until the end, when no stop string came of it."""
        if self.matched_stop is not None:
            return self._delta("", at_end=True)
        text = self._release(self._detokenizer.flush())
        if self.matched_stop is None:
            text += self._matcher.flush()
        return self._delta(text, at_end=True)

    def billed(self, finished: Finished) -> Finished:
        """A stop string is the end, even where the scheduler saw another one before it heard of it."""
        if self.matched_stop is None:
            return finished
        usage = replace(finished.usage, num_output_tokens=self.num_tokens)
        return replace(finished, reason=FinishReason.STOP, stop_token_id=None, usage=usage)

    def _release(self, text: str) -> str:
        # Like a stop token, a stop string does not end a sample before min_tokens.
        if self.num_tokens <= self._min_tokens:
            return text
        released, self.matched_stop = self._matcher.push(text)
        return released

    def _delta(self, text: str, *, at_end: bool = False) -> TextDelta | None:
        """Log-probabilities wait for the text of their tokens, at the latest until the end."""
        if not text and not (at_end and self._logprobs):
            return None
        logprobs, self._logprobs = tuple(self._logprobs), []
        return TextDelta(index=self._index, text=text, logprobs=logprobs, num_tokens=self.num_tokens)


def _token_text(tokenizer: Tokenizer, token_id: int, logprobs: Logprobs) -> TokenText:
    top = tuple(_plain_token(tokenizer, each, logprob) for each, logprob in logprobs.top)
    return replace(_plain_token(tokenizer, token_id, logprobs.logprob), top=top)


def _plain_token(tokenizer: Tokenizer, token_id: int, logprob: float) -> TokenText:
    text = tokenizer.token_text(token_id)
    # Special tokens have no bytes of their own; their name is what a client can show.
    utf8 = tokenizer.token_bytes(token_id) or text.encode()
    return TokenText(token_id=token_id, text=text, utf8=utf8, logprob=max(logprob, LOWEST_LOGPROB))
