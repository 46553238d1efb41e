"""What a worker says of itself: the model that it has in memory, what it can hold and compute, what else it could load.

Values that never change; what becomes of a worker is in worker_state.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a worker can hold and compute."""

    page_size: int
    num_pages: int
    max_model_len: int
    max_step_tokens: int
    max_step_sequences: int
    vocab_size: int
    max_new_tokens: int = 1
    """The most that one step may return for one sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    worker_id: str
    epoch: int
    model: str
    model_digest: str
    device: str
    numerics_id: str
    weights_bytes: int
    kv_bytes: int
    limits: ModelLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadableModel:
    """As a worker would serve it."""

    info: WorkerInfo
    """What is known of it before it is loaded: limits to check requests against, not how many pages it will have."""
    needed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadableModels:
    """What a worker can be told to load, and whose memory that takes."""

    models: Mapping[str, LoadableModel] = field(default_factory=dict)
    host_id: str = ""
    available_bytes: int | None = None
    home_model: str | None = None


def only_itself(info: WorkerInfo) -> LoadableModels:
    """The store of a worker that says nothing of one."""
    model = LoadableModel(info=info, needed_bytes=info.weights_bytes)
    return LoadableModels(models={info.model: model}, host_id=info.worker_id, home_model=info.model)
