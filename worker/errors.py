"""What can go wrong in a worker.

WorkerError
├── StartError              the worker cannot start, or load a model: the message says what to change
│   ├── NotEnoughMemoryError    it may do where another model has left
│   └── UnusableModelError      its files are not what a worker can compute with: trying again does not help
├── StepError               the scheduler's step cannot be executed as it stands; ends the session
├── EngineHangsError        a step does not end: nothing but ending the process helps
├── DeviceLostError         the device computes nothing more in this process: nothing but ending it helps
└── SamplingError           the logits of a sequence leave nothing to choose from; ends the session
"""


class WorkerError(Exception):
    """The root: all that a worker raises on purpose."""


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
