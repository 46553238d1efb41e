"""Loading of a model: its files become an engine that can run steps, and a description of its weights, pages and limits."""

import logging
import time
from functools import partial

import torch

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.gguf_file import headers_kept
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.model import Model
from protos.v1 import worker_pb2
from worker.constraints.guides import Guides
from worker.constraints.vocabulary import load_vocabulary
from worker.errors import NotEnoughMemoryError, StartError, UnusableModelError
from worker.kernels.device_health import check_device
from worker.kernels.interface import Kernels
from worker.kernels.select import select_chooser, select_kernels
from worker.kv_memory import (
    KVMemory,
    allocate_kv_memory,
    bytes_per_page,
    default_budget_bytes,
    measure_available,
)
from worker.layers.rope import dependence_on_length
from worker.loading.first_step import check_first_step
from worker.loading.local_models import LocalModels
from worker.loading.memory_check import check_memory
from worker.loading.packed_cache import PackedCache
from worker.models.decoder import DecoderModel
from worker.models.families import UnsupportedArchitectureError, load_model
from worker.settings import WorkerSettings
from worker.steps.engine import Engine
from worker.steps.engine_thread import Loaded
from worker.steps.executor import StepExecutor
from worker.steps.host_executor import HostExecutor
from worker.weights.checkpoint import OnProgress, WeightsError
from worker.weights.dequantize import UnsupportedTypeError

PACKED_CACHE = PackedCache()

logger = logging.getLogger(__name__)


def load_worker(settings: WorkerSettings, model: Model, on_progress: OnProgress | None = None) -> Loaded:
    """Load the model and return its engine.

    Raises StartError, with a message for the user; DeviceLostError if this process can load no model any more.
    """
    PACKED_CACHE.stop()
    try:
        return _load(settings, model, on_progress)
    except (MemoryError, RuntimeError) as error:
        check_device(torch.device("cpu" if settings.device == "cpu" else "cuda"))
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise NotEnoughMemoryError(
                f"not enough memory for {model.name}: {error}; stop other programs, or set a smaller --kv-memory"
            ) from error
        raise


def load_on_demand(settings: WorkerSettings, models: LocalModels, name: str, digest: str) -> Loaded:
    """Load the model of this name and digest and return its engine.

    Raises what `load_worker` raises, ModelError, and StartError if the files no longer have this digest.
    """
    model = models.find(name)
    if model.digest != digest:
        raise StartError(f"the files of {name} have changed since they were listed; try again")
    with models.loading(model) as on_progress:
        own_settings = settings.model_copy(update={"max_model_len": models.max_model_len(model)})
        loaded = load_worker(own_settings, model, on_progress)
    models.record_weights(model, loaded.model.weights_bytes)
    return loaded


@headers_kept()
def _load(settings: WorkerSettings, model: Model, on_progress: OnProgress | None) -> Loaded:
    max_model_len = choose_max_model_len(settings.max_model_len, model)
    # Loading is many short operations: waiting for all threads after each takes ten times as long on a busy machine.
    torch.set_num_threads(1)
    kernels = select_kernels(settings.numerics, settings.device, settings.native_directory, settings.kv_dtype)
    before = measure_available(kernels.device)
    if settings.check_memory:
        check_memory(settings, model, max_model_len, before)
    decoder = _load_decoder(model, kernels, settings, max_model_len, on_progress)
    # Weights that are views of a mapped file still count as available.
    available_bytes = min(before.num_bytes - decoder.weights_bytes, measure_available(kernels.device).num_bytes)
    kv = _allocate_pages(kernels, model, settings, max_model_len, max(0, available_bytes))
    check_first_step(model, decoder, kv)
    engine = Engine(
        select_executor(kernels, decoder, kv, model, settings),
        page_size=kv.page_size,
        num_pages=kv.num_pages,
        vocab_size=model.config.vocab_size,
        eos_token_ids=model.eos_token_ids,
        return_pages=kv.return_pages,
    )
    loaded = worker_pb2.LoadedModel(
        name=model.name,
        digest=model.digest,
        page_size=kv.page_size,
        num_pages=kv.num_pages,
        max_model_len=max_model_len,
        max_step_tokens=settings.max_step_tokens,
        max_step_sequences=settings.max_step_sequences,
        vocab_size=model.config.vocab_size,
        numerics_id=kernels.numerics_id + dependence_on_length(model.config.rope_scaling, max_model_len),
        weights_bytes=decoder.weights_bytes,
        kv_bytes=kv.num_bytes,
        max_new_tokens=engine.max_new_tokens,
    )
    return Loaded(engine, loaded)


def select_executor(
    kernels: Kernels, decoder: DecoderModel, kv: KVMemory, model: Model, settings: WorkerSettings
) -> StepExecutor:
    """Return the executor that computes steps on the kernels' device."""
    choose = select_chooser(settings.native_directory)
    guides = Guides(partial(load_vocabulary, model), model.config.vocab_size, model.eos_token_ids)
    return HostExecutor(decoder, kv, model.eos_token_ids, choose, kernels.device, guides)


def choose_max_model_len(wanted: int | None, model: Model) -> int:
    longest = model.config.max_position
    if wanted is not None and wanted > longest:
        raise StartError(f"--max-model-len must be at most {longest}, the maximum of {model.name} (got {wanted})")
    return wanted or longest


def _load_decoder(
    model: Model, kernels: Kernels, settings: WorkerSettings, max_model_len: int, on_progress: OnProgress | None
) -> DecoderModel:
    started = time.monotonic()
    try:
        check_tensors(model)
        with PACKED_CACHE.loading(settings.home, settings.packed_cache, model, kernels):
            decoder = load_model(model, kernels, max_model_len, on_progress)
    except (ModelFormatError, UnsupportedArchitectureError, UnsupportedTypeError, WeightsError) as error:
        raise UnusableModelError(str(error)) from error
    torch.set_num_threads(settings.threads)
    fields = {
        "model": model.name,
        "device": settings.device,
        "numerics_id": kernels.numerics_id,
        "threads": settings.threads,
        "weights_bytes": decoder.weights_bytes,
        "seconds": time.monotonic() - started,
    }
    logger.info("model loaded", extra=fields)
    return decoder


def _allocate_pages(
    kernels: Kernels, model: Model, settings: WorkerSettings, max_model_len: int, available_bytes: int
) -> KVMemory:
    budget_bytes = settings.kv_memory or default_budget_bytes(
        bytes_per_page(kernels, model.config, settings.page_size),
        page_size=settings.page_size,
        max_model_len=max_model_len,
        available_bytes=available_bytes,
        device=kernels.device.type,
        num_workers=settings.workers_on_machine,
    )
    if budget_bytes > available_bytes:
        logger.warning(
            "KV memory is larger than the available memory; the worker may run out of it when much of it is used",
            extra={"kv_memory": budget_bytes, "available_bytes": available_bytes},
        )
    kv = allocate_kv_memory(kernels, model.config, page_size=settings.page_size, budget_bytes=budget_bytes)
    num_tokens = kv.num_pages * kv.page_size
    fields = {"pages": kv.num_pages, "page_size": kv.page_size, "tokens": num_tokens, "kv_bytes": kv.num_bytes}
    logger.info("pages allocated", extra=fields)
    if num_tokens < max_model_len:
        logger.warning(
            "KV memory cannot hold a sequence of full length; sequences longer than `tokens` will end early",
            extra={"tokens": num_tokens, "max_model_len": max_model_len},
        )
    return kv
