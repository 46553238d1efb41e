"""The errors of requests and workers. Each error of a request has one gRPC status, which only `scheduler.rpc` sets.

RequestError
├── InvalidRequestError       INVALID_ARGUMENT     the request can never be served
├── NotAllowedError           PERMISSION_DENIED    the API key lacks the required scope
├── ModelNotServedError       NOT_FOUND            no worker has this model
├── QueueFullError            RESOURCE_EXHAUSTED   retry after retry_after_s
├── UnavailableError          UNAVAILABLE          no worker; retry after retry_after_s
│   └── ShuttingDownError                          this scheduler shuts down; retry on another one
├── DeadlineExceededError     DEADLINE_EXCEEDED    the request's own deadline passed
└── SequenceFailedError       INTERNAL             its computation failed repeatedly

The remaining errors concern a worker, not a request: its stream ends, and its sequences continue on other workers.
"""

from typing import ClassVar

import grpc


class RequestError(Exception):
    status: ClassVar[grpc.StatusCode]

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class InvalidRequestError(RequestError):
    status = grpc.StatusCode.INVALID_ARGUMENT


class NotAllowedError(RequestError):
    status = grpc.StatusCode.PERMISSION_DENIED


class ModelNotServedError(RequestError):
    status = grpc.StatusCode.NOT_FOUND


class QueueFullError(RequestError):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(RequestError):
    status = grpc.StatusCode.UNAVAILABLE


class ShuttingDownError(UnavailableError):
    def __init__(self) -> None:
        super().__init__("the scheduler is shutting down", retry_after_s=1.0)


class DeadlineExceededError(RequestError):
    status = grpc.StatusCode.DEADLINE_EXCEEDED


class SequenceFailedError(RequestError):
    status = grpc.StatusCode.INTERNAL


class WorkerProtocolError(Exception):
    """A worker violated the protocol; its stream is ended."""


class SilentWorkerError(Exception):
    """A stream was opened, and no message followed."""


class WorkerIDTakenError(Exception):
    """Another live process is attached under the same worker id."""
