"""The properties of a worker: its loaded model, its limits, and the models that it could load.

They never change while a worker is attached; its changing state is in steps/worker_state.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pagoda.wire.loadable_models import LoadableModel, LoadableModels


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """The limits of a worker's memory and steps."""

    page_size: int
    num_pages: int
    max_model_len: int
    max_step_tokens: int
    max_step_sequences: int
    vocab_size: int
    max_new_tokens: int = 1
    """Maximum number of new tokens that one step may return for one sequence."""


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
class WorkerStore:
    """The models that a worker can load, as last reported by it."""

    loadable: LoadableModels = field(default_factory=LoadableModels)
    infos: Mapping[str, WorkerInfo] = field(default_factory=dict)
    """Properties of each model before it is loaded. Its limits serve to check requests; the real number of pages is not known."""


def worker_store(loadable: LoadableModels, *, worker_id: str, epoch: int, device: str) -> WorkerStore:
    infos = {
        model.name: WorkerInfo(
            worker_id=worker_id,
            epoch=epoch,
            model=model.name,
            model_digest=model.digest,
            device=device,
            numerics_id="",
            weights_bytes=0,
            kv_bytes=0,
            limits=ModelLimits(
                page_size=model.page_size,
                # Requests are checked against the pages of one sequence of full length; the real number is known after loading.
                num_pages=-(-model.max_model_len // model.page_size),
                max_model_len=model.max_model_len,
                max_step_tokens=0,
                max_step_sequences=0,
                vocab_size=model.vocab_size,
            ),
        )
        for model in loadable.models
    }
    return WorkerStore(loadable=loadable, infos=infos)


def only_itself(info: WorkerInfo) -> WorkerStore:
    """Return the store of a worker that reports none: just its loaded model."""
    model = LoadableModel(
        name=info.model,
        digest=info.model_digest,
        page_size=info.limits.page_size,
        max_model_len=info.limits.max_model_len,
        vocab_size=info.limits.vocab_size,
        needed_bytes=info.weights_bytes,
    )
    loadable = LoadableModels(models=(model,), host_id=info.worker_id, home_model=info.model)
    return WorkerStore(loadable=loadable, infos={info.model: info})
