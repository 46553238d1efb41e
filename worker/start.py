"""From settings to an engine that can run steps, and to the Hello that describes it: the weights, the pages, the limits."""

import logging
import time
from dataclasses import dataclass

import torch

from pagoda.models.model import Model
from pagoda.models.store import ModelStore
from protos.v1 import worker_pb2
from worker.engine import Engine
from worker.errors import StartError
from worker.kernels.interface import Kernels
from worker.kernels.select import select_chooser, select_kernels
from worker.kv_memory import (
    KVMemory,
    allocate_kv_memory,
    available_memory_bytes,
    bytes_per_page,
    default_budget_bytes,
)
from worker.models.decoder import DecoderModel
from worker.models.registry import UnsupportedArchitectureError, load_model
from worker.settings import WorkerSettings
from worker.weights.checkpoint import WeightsError
from worker.weights.dequantize import UnsupportedTypeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWorker:
    engine: Engine
    hello: worker_pb2.Hello


def load_worker(settings: WorkerSettings, epoch: int) -> LoadedWorker:
    """Raises StartError or ModelError, with a sentence for the user."""
    model = ModelStore(settings.home).get(settings.model)
    max_model_len = choose_max_model_len(settings.max_model_len, model)
    kernels = select_kernels(settings.numerics, settings.device, settings.native_directory, settings.kv_dtype)
    decoder = _load_decoder(model, kernels, settings)
    kv = _allocate_pages(kernels, model, settings, max_model_len)
    loaded = worker_pb2.LoadedModel(
        name=model.name,
        digest=model.digest,
        page_size=kv.page_size,
        num_pages=kv.num_pages,
        max_model_len=max_model_len,
        max_step_tokens=settings.max_step_tokens,
        max_step_sequences=settings.max_step_sequences,
        vocab_size=model.config.vocab_size,
        numerics_id=kernels.numerics_id,
        eos_token_ids=model.eos_token_ids,
        weights_bytes=decoder.weights_bytes,
        kv_bytes=kv.num_bytes,
    )
    hello = worker_pb2.Hello(worker_id=settings.worker_id, epoch=epoch, model=loaded, device=settings.device)
    choose = select_chooser(settings.native_directory)
    engine = Engine(decoder, kv, model.config.vocab_size, model.eos_token_ids, choose)
    return LoadedWorker(engine=engine, hello=hello)


def load_again(settings: WorkerSettings, hello: worker_pb2.Hello, digest: str) -> Engine:
    """As it was when Hello was said, pages too. Raises as `load_worker`, and when the model's files have changed."""
    same_pages = settings.model_copy(update={"kv_memory": hello.model.kv_bytes})
    again = load_worker(same_pages, hello.epoch)
    if again.hello.model.digest != digest:
        raise StartError(
            f"the files of {settings.model} have changed since this server was started; start it again to serve them"
        )
    return again.engine


def choose_max_model_len(wanted: int | None, model: Model) -> int:
    longest = model.config.max_position
    if wanted is not None and wanted > longest:
        raise StartError(f"--max-model-len {wanted} is more than the {longest} tokens that {model.name} was made for")
    return wanted or longest


def _load_decoder(model: Model, kernels: Kernels, settings: WorkerSettings) -> DecoderModel:
    started = time.monotonic()
    # Loading is many short operations. Threads would wait for each other after each: on a busy machine ten times as long.
    torch.set_num_threads(1)
    try:
        decoder = load_model(model, kernels)
    except (UnsupportedArchitectureError, UnsupportedTypeError, WeightsError) as error:
        raise StartError(str(error)) from error
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


def _allocate_pages(kernels: Kernels, model: Model, settings: WorkerSettings, max_model_len: int) -> KVMemory:
    budget_bytes = settings.kv_memory or default_budget_bytes(
        bytes_per_page(kernels, model.config, settings.page_size),
        page_size=settings.page_size,
        max_model_len=max_model_len,
        available_bytes=available_memory_bytes(kernels.device),
    )
    kv = allocate_kv_memory(kernels, model.config, page_size=settings.page_size, budget_bytes=budget_bytes)
    num_tokens = kv.num_pages * kv.page_size
    fields = {"pages": kv.num_pages, "page_size": kv.page_size, "tokens": num_tokens, "kv_bytes": kv.num_bytes}
    logger.info("pages allocated", extra=fields)
    if num_tokens < max_model_len:
        logger.warning(
            "the pages cannot hold one sequence of full length: longer ones will end early",
            extra={"tokens": num_tokens, "max_model_len": max_model_len},
        )
    return kv
