"""The calls of clients: requests are submitted or refused, cancelled, finished, or timed out."""

from collections.abc import Callable

from pagoda.wire.finished import FinishReason
from pagoda.wire.inference_request import InferenceRequest
from scheduler.context import SchedulerContext
from scheduler.errors import DeadlineExceededError, InvalidRequestError, QueueFullError, ShuttingDownError
from scheduler.lifecycle import Lifecycle
from scheduler.models.served_models import ServedModels
from scheduler.policy import SchedulingPolicy
from scheduler.queue.events import Client
from scheduler.queue.new_sequences import check_request, length_problem, make_sequences
from scheduler.queue.open_requests import OpenRequest


class Requests:
    def __init__(
        self, context: SchedulerContext, models: ServedModels, lifecycle: Lifecycle, policy: SchedulingPolicy
    ) -> None:
        self._context = context
        self._models = models
        self._lifecycle = lifecycle
        self._open = lifecycle.open_requests
        self._max_waiting = policy.max_waiting
        self._max_waiting_per_tenant = (
            policy.max_waiting if policy.max_waiting_per_tenant is None else policy.max_waiting_per_tenant
        )
        self._next_sequence_id = 1
        self.is_draining = False

    def start_draining(self, on_idle: Callable[[], object]) -> None:
        """Refuse new requests from now on. `on_idle` is called when the last open request has ended, perhaps immediately."""
        self.is_draining = True
        self._open.call_when_empty(on_idle)
        self._context.wake()

    def check_prompt_length(self, model: str, num_tokens: int) -> None:
        """Refuse a prompt that is too long, before it is copied. Raises the same RequestError as `submit_request`."""
        if self.is_draining:
            raise ShuttingDownError
        if (problem := length_problem(num_tokens, self._models.info_for_request(model).limits)) is not None:
            raise InvalidRequestError(problem)

    def submit_request(self, request: InferenceRequest, client: Client) -> None:
        """Queue the samples of a request. Raises a RequestError and queues nothing if the request is refused."""
        if self.is_draining:
            raise ShuttingDownError
        info = self._models.info_for_request(request.model)
        check_request(request, info.limits)
        if self._open.find_request(client, request.request_id) is not None:
            raise InvalidRequestError(f"request_id {request.request_id!r} is already open")
        self._check_room(request)
        sequences = make_sequences(request, info, first_id=self._next_sequence_id, now_s=self._context.clock.time())
        self._next_sequence_id += len(sequences)
        opened = OpenRequest(request=request, client=client, sequences={s.sample_index: s for s in sequences})
        self._lifecycle.accept_request(opened)
        if request.timeout_s is not None:
            opened.deadline = self._context.clock.call_later(request.timeout_s, lambda: self._expire_request(opened))
        for sequence in sequences:
            if len(sequence.token_ids) >= sequence.max_length:
                self._lifecycle.finish_sequence(sequence, FinishReason.LENGTH)
        self._changed()

    def cancel_request(self, client: Client, request_id: str) -> None:
        """Abort a request for its client. An unknown request is ignored, since it has already ended."""
        opened = self._open.find_request(client, request_id)
        if opened is not None:
            self._abort_request(opened)

    def cancel_requests_of(self, client: Client) -> None:
        """Abort all requests of a client whose connection is gone."""
        for opened in self._open.requests_of_client(client):
            self._abort_request(opened)

    def finish_sample(self, client: Client, request_id: str, sample_index: int, num_tokens: int) -> None:
        """End a sample in which the client found a stop string, within its first `num_tokens` generated tokens."""
        opened = self._open.find_request(client, request_id)
        sequence = opened.sequences.get(sample_index) if opened else None
        if sequence is not None:
            num_output_tokens = min(num_tokens, sequence.num_output_tokens)
            self._lifecycle.finish_sequence(sequence, FinishReason.STOP, num_output_tokens=num_output_tokens)
            self._changed()

    def _check_room(self, request: InferenceRequest) -> None:
        """Raise QueueFullError if too many sequences wait, of this tenant or in all."""
        of_tenant, of_all = self._context.waiting.num_waiting(request.tenant), len(self._context.waiting)
        if of_tenant + request.num_samples > self._max_waiting_per_tenant:
            number, limit, whose = of_tenant, self._max_waiting_per_tenant, "your queue"
        elif of_all + request.num_samples > self._max_waiting:
            number, limit, whose = of_all, self._max_waiting, "the queue"
        else:
            return
        wait_s = self._lifecycle.drain_rate.seconds_for(of_all)
        raise QueueFullError(
            f"{whose} is full: {number} sequences wait (limit {limit}); a new one would wait about {wait_s:.0f} s",
            retry_after_s=self._lifecycle.drain_rate.retry_after_s(of_all),
        )

    def _abort_request(self, opened: OpenRequest) -> None:
        for sequence in list(opened.sequences.values()):
            self._lifecycle.finish_sequence(sequence, FinishReason.ABORT)
        self._changed()

    def _expire_request(self, opened: OpenRequest) -> None:
        timeout = opened.request.timeout_s
        self._lifecycle.fail_request(opened, DeadlineExceededError(f"the request's deadline of {timeout:g} s passed"))
        self._changed()

    def _changed(self) -> None:
        self._context.wake()
        self._open.deliver_events()
