"""The gRPC service for clients: it turns messages into calls of the loop, and the loop's events into messages.

Events are handed over without waiting. Events that a slow reader has not taken yet are kept in a bounded box; if it overflows, only
that reader's requests end.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import replace

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from pagoda.api_keys.keyring import ScopeMissingError
from pagoda.wire.events import event_to_proto
from pagoda.wire.finished import Finished
from pagoda.wire.inference_request import InferenceRequest
from protos.v1 import inference_pb2, inference_pb2_grpc
from scheduler.errors import InvalidRequestError, NotAllowedError, RequestError, ShuttingDownError
from scheduler.loop import SchedulerLoop
from scheduler.queue.events import ClientEvent, Failed
from scheduler.rpc import client_messages
from scheduler.rpc.door import Visitor, visitor
from scheduler.rpc.scheduler_load import scheduler_load, served_models

SERVICE_NAME = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name

# About a minute of one fast stream, and some seconds of a thousand streams. No working reader is that late.
MAX_GENERATE_EVENTS = 8_192
MAX_SESSION_EVENTS = 1_000_000


class EventBox:
    """The events of one client that its stream has not taken yet."""

    def __init__(self, max_events: int) -> None:
        self._max_events = max_events
        self._events: list[ClientEvent] = []
        self._arrived = asyncio.Event()
        self._is_overfull = False
        self._is_closed = False
        self._error: RequestError | None = None

    def deliver(self, events: Seq[ClientEvent]) -> None:
        self._is_overfull |= len(self._events) + len(events) > self._max_events
        if not self._is_overfull:
            self._events.extend(events)
        self._arrived.set()

    def close(self, error: RequestError | None = None) -> None:
        """Close the box. Once it is empty, `take_events` raises `error`, if there is one."""
        self._is_closed, self._error = True, error
        self._arrived.set()

    async def take_events(self) -> list[ClientEvent]:
        """Return all events that have arrived; none only if the box is closed. Raises asyncio.QueueFull if events were lost."""
        while not self._events and not self._is_closed and not self._is_overfull:
            self._arrived.clear()
            await self._arrived.wait()
        if self._is_overfull:
            raise asyncio.QueueFull
        if not self._events and self._error is not None:
            raise self._error
        events, self._events = self._events, []
        return events


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, loop: SchedulerLoop) -> None:
        self._loop = loop
        self._boxes: set[EventBox] = set()

    def end_streams(self) -> None:
        """End all streams with ShuttingDownError, so that open requests can resume on another scheduler."""
        for box in self._boxes:
            box.close(ShuttingDownError())

    @contextmanager
    def _box(self, max_events: int) -> Iterator[EventBox]:
        """Yield the box of a client, and cancel the client's requests at the end."""
        box = EventBox(max_events)
        self._boxes.add(box)
        try:
            yield box
        finally:
            self._boxes.discard(box)
            self._loop.requests.cancel_requests_of(box)

    async def Generate(
        self,
        request: inference_pb2.GenerateRequest,
        context: grpc.aio.ServicerContext[inference_pb2.GenerateRequest, inference_pb2.GenerateResponse],
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        try:
            inference = _as_allowed(self._from_proto(request), visitor.get())
            remaining = context.time_remaining()
            limits = [limit for limit in (inference.timeout_s, remaining) if limit is not None]
            inference = replace(
                inference,
                request_id=inference.request_id or uuid.uuid4().hex,
                timeout_s=min(limits, default=None),
            )
            if not inference.traceparent:
                sent = _trace_headers(context.invocation_metadata())
                inference = replace(
                    inference, traceparent=sent.get("traceparent", ""), tracestate=sent.get("tracestate", "")
                )
            with self._box(MAX_GENERATE_EVENTS) as box:
                self._loop.requests.submit_request(inference, box)
                num_open = len(inference.open_samples)
                while num_open:
                    for event in await box.take_events():
                        if isinstance(event, Failed):
                            raise event.error
                        num_open -= isinstance(event, Finished)
                        yield event_to_proto(event)
        except RequestError as error:
            await context.abort_with_status(_status(error))
        except asyncio.QueueFull:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _unread(MAX_GENERATE_EVENTS))

    async def Session(
        self,
        request_iterator: AsyncIterator[inference_pb2.SessionRequest],
        context: grpc.aio.ServicerContext[inference_pb2.SessionRequest, inference_pb2.SessionResponse],
    ) -> AsyncIterator[inference_pb2.SessionResponse]:
        try:
            with self._box(MAX_SESSION_EVENTS) as box:
                reader = asyncio.create_task(self._read_session(request_iterator, box))
                reader.add_done_callback(lambda _: box.close())
                try:
                    while events := await box.take_events():
                        yield client_messages.session_response(events)
                    reader.result()
                finally:
                    reader.cancel()
        except RequestError as error:
            await context.abort_with_status(_status(error))
        except asyncio.QueueFull:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _unread(MAX_SESSION_EVENTS))

    async def KeepLoaded(
        self,
        request: inference_pb2.KeepLoadedRequest,
        context: grpc.aio.ServicerContext[inference_pb2.KeepLoadedRequest, inference_pb2.KeepLoadedResponse],
    ) -> inference_pb2.KeepLoadedResponse:
        outcome: asyncio.Queue[RequestError | None] = asyncio.Queue()
        try:
            keep_alive_s = None
            if request.HasField("keep_alive_s"):
                keep_alive_s = client_messages.bounded_keep_alive(request.keep_alive_s)
            self._loop.loading.keep_loaded(
                request.model, keep_alive_s, outcome.put_nowait, only_prolongs=request.keep_alive_only_prolongs
            )
            if (error := await outcome.get()) is not None:
                raise error
        except RequestError as error:
            await context.abort_with_status(_status(error))
        return inference_pb2.KeepLoadedResponse()

    async def ListModels(
        self,
        request: inference_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[inference_pb2.ListModelsRequest, inference_pb2.ListModelsResponse],
    ) -> inference_pb2.ListModelsResponse:
        models = [model.to_proto() for model in served_models(self._loop)]
        return inference_pb2.ListModelsResponse(models=models)

    async def GetLoad(
        self,
        request: inference_pb2.GetLoadRequest,
        context: grpc.aio.ServicerContext[inference_pb2.GetLoadRequest, inference_pb2.GetLoadResponse],
    ) -> inference_pb2.GetLoadResponse:
        return scheduler_load(self._loop).to_proto()

    async def _read_session(self, commands: AsyncIterator[inference_pb2.SessionRequest], box: EventBox) -> None:
        async for message in commands:
            match message.WhichOneof("command"):
                case "open":
                    self._open(message.open, box)
                case "cancel":
                    self._loop.requests.cancel_request(box, message.cancel.request_id)
                case "finish":
                    finish = message.finish
                    self._loop.requests.finish_sample(box, finish.request_id, finish.sample_index, finish.num_tokens)
                case _:
                    # A client with a newer API must learn that its command was not understood.
                    raise InvalidRequestError("a session command must be one of open, cancel, finish")

    def _from_proto(self, message: inference_pb2.GenerateRequest) -> InferenceRequest:
        """Convert a request. Raises a RequestError; texts and prompts that are too long are refused before they are copied."""
        client_messages.check_bounds(message)
        self._loop.requests.check_prompt_length(message.model, len(message.prompt_token_ids))
        return client_messages.request_from_proto(message)

    def _open(self, message: inference_pb2.GenerateRequest, box: EventBox) -> None:
        try:
            self._loop.requests.submit_request(self._from_proto(message), box)
        except RequestError as error:
            box.deliver([Failed(request_id=message.request_id, error=error)])


def _as_allowed(request: InferenceRequest, asking: Visitor) -> InferenceRequest:
    """Return the request with tenant, salt and priority as its API key determines them, as in HTTP.

    Raises NotAllowedError if the key does not allow the priority.
    """
    key = asking.key
    if key is None:
        return request
    try:
        priority = key.priority(request.priority or None)
    except ScopeMissingError as error:
        raise NotAllowedError(str(error)) from None
    return replace(
        request,
        tenant=key.tenant,
        cache_salt=key.cache_salt(request.cache_salt),
        priority=priority,
        keep_alive_only_prolongs=request.keep_alive_only_prolongs or not key.may_unload,
    )


def _trace_headers(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Return the W3C headers in a call's metadata, which an instrumented client sends beside the message."""
    return {key: str(value) for key, value in metadata or () if key in ("traceparent", "tracestate")}


def _unread(max_events: int) -> str:
    return f"the client reads too slowly: it may leave at most {max_events} events unread"


def _status(error: RequestError) -> grpc.Status:
    message = status_pb2.Status(code=code_pb2.Code.Value(error.status.name), message=error.message)
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        message.details.append(detail)
    return rpc_status.to_status(message)  # type: ignore[no-any-return]  # the package has no types
