"""A scheduler that answers from a script, without workers and pages, for tests of clients of InferenceService.

A text answer has one token per byte, as in the tiny model's vocabulary.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc

from pagoda.rpc.grpc_server import GrpcServer
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2

SERVICE_NAME = "protos.v1.InferenceService"
STOP, LENGTH, ABORT = types_pb2.FINISH_REASON_STOP, types_pb2.FINISH_REASON_LENGTH, types_pb2.FINISH_REASON_ABORT
_STATUS_BY_CODE = {status.value[0]: status for status in grpc.StatusCode}
QUEUE_S, PREFILL_S, DECODE_S, NUM_PREEMPTIONS = 0.25, 0.5, 2.0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The scripted answer to one sample of a request."""

    text: str = "Hello!"
    token_ids: tuple[int, ...] = ()
    """Tokens to send instead of the text."""
    tokens_per_event: int = 1
    num_cached_tokens: int = 0
    stop_token_id: int | None = None
    refusal: tuple[grpc.StatusCode, str, float | None] | None = None
    """Status, message and retry delay with which the request is refused before it starts."""
    hold_before: int | None = None
    """Index of the token before which the answer waits for `FakeScheduler.release`."""
    pace_s: float = 0.0
    """Time between two tokens, in seconds."""
    failure_after: int | None = None
    """Number of tokens after which the request fails, with status `failure`."""
    failure: grpc.StatusCode = grpc.StatusCode.INTERNAL

    def tokens(self) -> tuple[int, ...]:
        return self.token_ids or tuple(self.text.encode())


class FakeScheduler(inference_pb2_grpc.InferenceServiceServicer):
    """A scheduler that records what it receives. A test assigns `answer`, a function of a request and a sample index."""

    def __init__(self, address: str, model: str, max_model_len: int = 512) -> None:
        self.address = address
        self.models = [
            inference_pb2.ModelInfo(
                name=model, digest="d" * 64, max_model_len=max_model_len, num_workers=1, device="cpu", page_size=16
            )
        ]
        self.load = inference_pb2.GetLoadResponse()
        self.answer: Callable[[inference_pb2.GenerateRequest, int], Answer] = lambda request, index: Answer()
        self.requests: list[inference_pb2.GenerateRequest] = []
        self.kept_loaded: list[inference_pb2.KeepLoadedRequest] = []
        self.is_shutting_down = False
        """True if refusals say that the scheduler shuts down."""
        self.load_error = ""
        """Reason why no model can be loaded; empty if it can."""
        self.finishes: list[inference_pb2.Finish] = []
        self.opened: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.held: asyncio.Queue[str] = asyncio.Queue()
        self.release = asyncio.Event()
        self.session_opened = asyncio.Event()
        self.thawed = asyncio.Event()
        """Event that is cleared to simulate a stopped process: connections stay open, and nothing is answered."""
        self.thawed.set()
        self._break = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.server = GrpcServer(self.address)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, self.server.server)
        await self.server.start([SERVICE_NAME])
        await self.server.set_serving(SERVICE_NAME, True)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.break_sessions()
        await self.server.stop(0)

    def break_sessions(self) -> None:
        """End the open streams, as a dying scheduler does."""
        self._break.set()
        self._break = asyncio.Event()
        self.session_opened.clear()

    async def ListModels(self, request: inference_pb2.ListModelsRequest, context: Any) -> Any:
        await self.thawed.wait()
        return inference_pb2.ListModelsResponse(models=self.models)

    async def KeepLoaded(self, request: inference_pb2.KeepLoadedRequest, context: Any) -> Any:
        self.kept_loaded.append(request)
        if self.load_error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.load_error)
        return inference_pb2.KeepLoadedResponse()

    async def GetLoad(self, request: inference_pb2.GetLoadRequest, context: Any) -> Any:
        await self.thawed.wait()
        return self.load

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        session = _Session(self)
        session.open(request)
        num_open = request.num_samples or 1
        try:
            while num_open and (response := await session.responses.get()) is not None:
                for error in response.errors:
                    await context.abort(_STATUS_BY_CODE[error.code], error.message)
                for event in response.events:
                    num_open -= event.HasField("finished")
                    yield event
        finally:
            session.end()

    async def Session(
        self, request_iterator: AsyncIterator[inference_pb2.SessionRequest], context: Any
    ) -> AsyncIterator[inference_pb2.SessionResponse]:
        session = _Session(self)
        tasks = [
            asyncio.create_task(session.read(request_iterator)),
            asyncio.create_task(self._break_when_told(session, self._break)),
        ]
        self.session_opened.set()
        try:
            while (response := await session.responses.get()) is not None:
                await self.thawed.wait()
                yield response
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the fake scheduler dies")
        finally:
            session.end()
            for task in tasks:
                task.cancel()

    async def _break_when_told(self, session: "_Session", told: asyncio.Event) -> None:
        await told.wait()
        session.responses.put_nowait(None)


class _Session:
    def __init__(self, scheduler: FakeScheduler) -> None:
        self._scheduler = scheduler
        self.responses: asyncio.Queue[inference_pb2.SessionResponse | None] = asyncio.Queue()
        self._samples: dict[tuple[str, int], _Sample] = {}

    async def read(self, commands: AsyncIterator[inference_pb2.SessionRequest]) -> None:
        async for command in commands:
            match command.WhichOneof("command"):
                case "open":
                    self.open(command.open)
                case "cancel":
                    request_id = command.cancel.request_id
                    for sample in [sample for key, sample in self._samples.items() if key[0] == request_id]:
                        sample.end(ABORT, sample.num_sent)
                    self._scheduler.cancelled.put_nowait(request_id)
                case "finish":
                    finish = command.finish
                    self._scheduler.finishes.append(finish)
                    if (ended := self._samples.get((finish.request_id, finish.sample_index))) is not None:
                        ended.end(STOP, finish.num_tokens)

    def end(self) -> None:
        for sample in self._samples.values():
            sample.task.cancel()

    def send(self, *events: inference_pb2.GenerateResponse) -> None:
        self.responses.put_nowait(inference_pb2.SessionResponse(events=events))

    def fail(self, request_id: str, code: grpc.StatusCode, message: str, retry_after_s: float | None = None) -> None:
        error = inference_pb2.RequestError(
            request_id=request_id,
            code=code.value[0],
            message=message,
            retry_after_s=retry_after_s,
            is_shutting_down=self._scheduler.is_shutting_down,
        )
        self.responses.put_nowait(inference_pb2.SessionResponse(errors=[error]))

    def forget(self, sample: "_Sample") -> None:
        self._samples.pop((sample.request.request_id, sample.index), None)

    def open(self, request: inference_pb2.GenerateRequest) -> None:
        self._scheduler.requests.append(request)
        self._scheduler.opened.put_nowait(request.request_id)
        finished = {sample.sample_index for sample in request.resume if sample.finished}
        for index in {*range(request.num_samples or 1)} - finished:
            answer = self._scheduler.answer(request, index)
            if answer.refusal is not None:
                self.fail(request.request_id, *answer.refusal)
                return
            self._samples[request.request_id, index] = _Sample(self._scheduler, self, request, index, answer)


class _Sample:
    def __init__(
        self,
        scheduler: FakeScheduler,
        session: _Session,
        request: inference_pb2.GenerateRequest,
        index: int,
        answer: Answer,
    ) -> None:
        self.request = request
        self.index = index
        self.num_sent = next((len(s.generated_token_ids) for s in request.resume if s.sample_index == index), 0)
        """Number of tokens that the client has, those from another scheduler included."""
        self._scheduler = scheduler
        self._session = session
        self._answer = answer
        self.task = asyncio.create_task(self._run())

    def end(
        self, reason: "types_pb2.FinishReason.ValueType", num_tokens: int, stop_token_id: int | None = None
    ) -> None:
        self.task.cancel()
        self._session.forget(self)
        usage = types_pb2.Usage(
            num_prompt_tokens=len(self.request.prompt_token_ids),
            num_cached_tokens=self._answer.num_cached_tokens,
            num_output_tokens=num_tokens,
        )
        finished = inference_pb2.Finished(
            request_id=self.request.request_id,
            sample_index=self.index,
            reason=reason,
            stop_token_id=stop_token_id,
            usage=usage,
            timings=types_pb2.Timings(
                queue_s=QUEUE_S, prefill_s=PREFILL_S, decode_s=DECODE_S, num_preemptions=NUM_PREEMPTIONS
            ),
        )
        self._session.send(inference_pb2.GenerateResponse(finished=finished))

    async def _run(self) -> None:
        self._start()
        limit = self.request.sampling.max_tokens if self.request.sampling.HasField("max_tokens") else 2**31
        planned = self._answer.tokens()
        tokens = planned[:limit]
        for start in range(self.num_sent, len(tokens), self._answer.tokens_per_event):
            if self._answer.failure_after is not None and start >= self._answer.failure_after:
                self._session.forget(self)
                self._session.fail(self.request.request_id, self._answer.failure, "the script says so")
                return
            if start == self._answer.hold_before:
                self._scheduler.held.put_nowait(self.request.request_id)
                await self._scheduler.release.wait()
            self._send_tokens(tokens[start : start + self._answer.tokens_per_event])
            await asyncio.sleep(self._answer.pace_s)  # lets commands and other samples run in between, as steps do
        self.end(LENGTH if len(planned) > limit else STOP, len(tokens), self._answer.stop_token_id)

    def _start(self) -> None:
        started = inference_pb2.Started(
            request_id=self.request.request_id,
            sample_index=self.index,
            worker_id="fake-worker",
            num_cached_tokens=self._answer.num_cached_tokens,
        )
        self._session.send(inference_pb2.GenerateResponse(started=started))
        if self.request.sampling.HasField("num_prompt_logprobs") and self.index == 0 and not self.request.resume:
            self._score_prompt()

    def _score_prompt(self) -> None:
        """Send the prompt's scores in two or more pieces, as for a prompt that is computed in chunks."""
        num_top, prompt = self.request.sampling.num_prompt_logprobs, self.request.prompt_token_ids
        size = min(512, (1 + len(prompt)) // 2)
        for start in range(1, len(prompt), size):
            if token_ids := prompt[start : start + size]:
                scored = inference_pb2.PromptLogprobs(
                    request_id=self.request.request_id,
                    start=start,
                    logprobs=[self._logprobs(token_id, num_top) for token_id in token_ids],
                )
                self._session.send(inference_pb2.GenerateResponse(prompt_logprobs=scored))

    def _send_tokens(self, token_ids: Sequence[int]) -> None:
        tokens = inference_pb2.Tokens(
            request_id=self.request.request_id,
            sample_index=self.index,
            token_ids=token_ids,
            logprobs=[self._sampled_logprobs(token_id) for token_id in token_ids],
            sequence_number=self.num_sent,
        )
        if not self.request.sampling.HasField("num_logprobs"):
            del tokens.logprobs[:]
        self.num_sent += len(token_ids)
        self._session.send(inference_pb2.GenerateResponse(tokens=tokens))

    def _sampled_logprobs(self, token_id: int) -> types_pb2.Logprobs:
        """Return the log-probability of a generated token, and of the tokens that the request names if it names any."""
        named = self.request.sampling.logprob_token_ids
        if not named:
            return self._logprobs(token_id, self.request.sampling.num_logprobs)
        top = [types_pb2.TokenLogprob(token_id=each, logprob=-0.5 - abs(token_id - each)) for each in named]
        return types_pb2.Logprobs(logprob=-0.5, top=top)

    def _logprobs(self, token_id: int, num_top: int) -> types_pb2.Logprobs:
        """Return a token's log-probability, -0.5, and 1 less for each of its successors in the vocabulary."""
        top = [types_pb2.TokenLogprob(token_id=token_id + rank, logprob=-0.5 - rank) for rank in range(num_top)]
        return types_pb2.Logprobs(logprob=-0.5, top=top)
