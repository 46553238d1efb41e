"""Why a request is refused or fails. Each error has one gRPC status; the border turns one into the other, nobody else does.

RequestError
├── InvalidRequestError       INVALID_ARGUMENT     can never be served
├── NotAllowedError           PERMISSION_DENIED    the API key has not the scope for it
├── ModelNotServedError       NOT_FOUND            no worker has this model
├── QueueFullError            RESOURCE_EXHAUSTED   try again after retry_after_s
├── UnavailableError          UNAVAILABLE          no worker; try again after retry_after_s
│   └── ShuttingDownError                          this scheduler is about to end; others are not
├── DeadlineExceededError     DEADLINE_EXCEEDED    the request's own deadline passed
└── SequenceFailedError       INTERNAL             its computation failed again and again

The others are about a worker and no request: its stream is ended, its sequences go on elsewhere.
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
    """A worker broke the contract; its stream is ended."""


class SilentWorkerError(Exception):
    """A stream was opened, and then nothing was said."""


class WorkerIDTakenError(Exception):
    """Another process is attached under the same worker id, and lives."""
