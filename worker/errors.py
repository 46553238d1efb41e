"""The exceptions of a worker.

WorkerError
├── StartError              the worker cannot start or cannot load a model; the message says what to change
│   ├── NotEnoughMemoryError    loading may succeed after another model is unloaded
│   └── UnusableModelError      the worker cannot compute with the model's files; a retry fails again
├── StepError               a step from the scheduler is invalid; ends the session
├── EngineHangsError        a step does not end; the process must exit
├── DeviceLostError         the process can no longer compute on its device, and must exit
└── SamplingError           no token can be chosen from the logits of a sequence; ends the session
"""


class WorkerError(Exception):
    """Base class of all exceptions that a worker raises on purpose."""


class StartError(WorkerError):
    pass


class NotEnoughMemoryError(StartError):
    pass


class UnusableModelError(StartError):
    pass


class StepError(WorkerError):
    pass


class EngineHangsError(WorkerError):
    pass


class DeviceLostError(WorkerError):
    pass


class SamplingError(WorkerError):
    pass
