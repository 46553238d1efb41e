"""The memory that a model needs, estimated before it is loaded, and the sentence for a user whose memory is too small."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pagoda.models.formats.served_bytes import kv_bytes_per_token, served_weights_bytes
from pagoda.models.model import Model
from pagoda.process.memory import AvailableMemory, size

SMALLEST_CONTEXT = 2048
"""Number of tokens for which there must be KV memory, unless the model's own maximum is smaller."""
PROCESS_BYTES = 300_000_000
"""Memory of a worker's process besides weights and KV memory: Python, torch and the results of steps."""
OTHER_TIERS_BYTES = 250_000_000
"""Memory of a gateway, a scheduler and `pagoda serve`."""
_KV_ELEMENT_BYTES = {"float32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """The least memory with which a model can be served."""

    weights_bytes: int
    kv_bytes: int
    process_bytes: int = PROCESS_BYTES

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.process_bytes

    def fits(self, available: AvailableMemory) -> bool:
        return self.total_bytes <= available.num_bytes

    def describe(self) -> str:
        return (
            f"about {size(self.total_bytes)} of memory ({size(self.weights_bytes)} for weights, {size(self.kv_bytes)} for "
            f"the smallest KV memory, {size(self.process_bytes)} for the process)"
        )


def memory_need(
    model: Model, *, numerics: str | None = None, kv_memory: int | None = None, max_model_len: int | None = None
) -> MemoryNeed:
    """Return what a worker with these settings needs at least. None stands for a setting's default."""
    context = min(SMALLEST_CONTEXT, max_model_len or model.config.max_position)
    kv_bytes = context * kv_bytes_per_token(model.config, _KV_ELEMENT_BYTES.get(numerics or "", 2))
    return MemoryNeed(
        weights_bytes=served_weights_bytes(model, numerics), kv_bytes=min(kv_bytes, kv_memory or kv_bytes)
    )


def add_tiers(need: MemoryNeed) -> MemoryNeed:
    """Return the need of workers together with a gateway and a scheduler on the same machine."""
    return replace(need, process_bytes=need.process_bytes + OTHER_TIERS_BYTES)


def sum_needs(needs: Sequence[MemoryNeed]) -> MemoryNeed:
    """Return what several workers of one machine need together."""
    return MemoryNeed(
        weights_bytes=sum(need.weights_bytes for need in needs),
        kv_bytes=sum(need.kv_bytes for need in needs),
        process_bytes=sum(need.process_bytes for need in needs),
    )


def describe_lack(name: str, need: MemoryNeed, available: AvailableMemory, device: str = "cpu") -> str:
    """Return why the model does not fit, what would fit and what to do."""
    left_bytes = available.num_bytes - need.kv_bytes - need.process_bytes
    fitting = f"A file of up to about {size(left_bytes)} would fit. " if left_bytes > 0 else "No model would fit. "
    if device != "cpu":
        remedy = "Stop other programs that use the GPU, or choose"
    elif available.limit_bytes is not None:
        remedy = "Raise the container's memory limit, or choose"
    else:
        remedy = "Stop other programs, or choose"
    return (
        f"{name} needs {need.describe()}, but {available.describe()}. {fitting}"
        f"{remedy} a smaller model or a file of fewer bits per weight."
    )
