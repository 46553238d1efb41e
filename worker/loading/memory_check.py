"""The check that a model fits into memory, made before its weights are read."""

from dataclasses import replace

from pagoda.models.memory_need import describe_lack, memory_need
from pagoda.models.model import Model
from pagoda.process.memory import AvailableMemory, resident_bytes
from worker.errors import NotEnoughMemoryError
from worker.settings import WorkerSettings

_LEAST_PROCESS_BYTES = 64_000_000
"""Memory that a worker still needs for its steps, however much it has already."""


def check_memory(settings: WorkerSettings, model: Model, max_model_len: int, available: AvailableMemory) -> None:
    """Raise NotEnoughMemoryError with the numbers if the model does not fit."""
    need = memory_need(
        model, numerics=settings.numerics_in_use, kv_memory=settings.kv_memory, max_model_len=max_model_len
    )
    # What this process has already is no longer available, and is not needed again.
    need = replace(need, process_bytes=max(_LEAST_PROCESS_BYTES, need.process_bytes - resident_bytes()))
    if not need.fits(available):
        raise NotEnoughMemoryError(describe_lack(model.name, need, available, settings.device))
