"""An instant worker: the real scheduler link over the instant engine. `python -m tests.fakes.worker --scheduler ADDRESS`."""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pagoda.rpc.grpc_channel import LOCAL_ONLY
from pagoda.rpc.transport_security import TransportSecurity
from pagoda.wire.load_progress import LoadProgress
from pagoda.wire.loadable_models import LoadableModel, LoadableModels
from protos.v1 import worker_pb2
from tests.fakes.engine import EOS_TOKEN_ID, VOCAB_SIZE, FakeEngine
from tests.fakes.executors import PoisonedExecutor, Wrap, plain
from worker.__main__ import serve
from worker.rpc.scheduler_link import SchedulerLink
from worker.rpc.session import Store
from worker.steps.engine import Engine
from worker.steps.engine_thread import Load, Loaded, StepRunner


class FakeStore:
    """A store with one model, which never changes."""

    available_bytes = None
    load_progress: LoadProgress | None = None

    def __init__(self, model: worker_pb2.LoadedModel) -> None:
        self._model = model

    def refresh(self) -> bool:
        return False

    def loadable_models(self) -> LoadableModels:
        model = LoadableModel(
            name=self._model.name,
            digest=self._model.digest,
            page_size=self._model.page_size,
            max_model_len=self._model.max_model_len,
            vocab_size=self._model.vocab_size,
            needed_bytes=0,
        )
        return LoadableModels(models=(model,), host_id="fake", home_model=model.name)


def fake_worker_link(
    address: str,
    *,
    num_pages: int = 256,
    page_size: int = 16,
    worker_id: str = "fake-worker",
    model_name: str = "fake",
    max_model_len: int = 2048,
    max_step_tokens: int = 512,
    max_step_sequences: int = 64,
    eos_token_ids: Sequence[int] = (EOS_TOKEN_ID,),
    eos_after: int | None = None,
    load: Load | None = None,
    engine: StepRunner | None = None,
    wrap: Wrap = plain,
    security: TransportSecurity = LOCAL_ONLY,
    spread_interval_s: float = 0.0,
    make_store: Callable[[worker_pb2.LoadedModel], Store] = FakeStore,
) -> SchedulerLink:
    """Return a link that is not attached yet: `await link.run()` attaches it, and `link.stop()` ends it."""

    def make_engine() -> FakeEngine:
        return FakeEngine(
            num_pages=num_pages, page_size=page_size, eos_token_ids=eos_token_ids, eos_after=eos_after, wrap=wrap
        )

    running = engine or make_engine()
    model = worker_pb2.LoadedModel(
        name=model_name,
        digest="0" * 64,
        page_size=page_size,
        num_pages=num_pages,
        max_model_len=max_model_len,
        max_step_tokens=max_step_tokens,
        max_step_sequences=max_step_sequences,
        vocab_size=VOCAB_SIZE,
        numerics_id="fake-1",
        weights_bytes=1,
        kv_bytes=num_pages * page_size,
        max_new_tokens=running.max_new_tokens if isinstance(running, Engine) else 1,
    )
    hello = worker_pb2.Hello(worker_id=worker_id, epoch=time.time_ns() // 1_000_000, model=model, device="fake")
    load_again = load or (lambda name, digest: Loaded(make_engine(), model))
    return SchedulerLink(
        running,
        load_again,
        hello,
        address.split(","),
        security=security,
        store=make_store(model),
        spread_interval_s=spread_interval_s,
    )


async def run_fake_worker(address: str, **options: Any) -> None:
    """Run a worker until the task is cancelled; the scheduler sees a lost stream. Options: those of `fake_worker_link`."""
    await fake_worker_link(address, **options).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheduler", required=True, help="addresses, separated by commas")
    parser.add_argument("--num-pages", type=int, default=256)
    parser.add_argument("--eos-after", type=int, help="end each sequence after this many tokens")
    parser.add_argument("--model-name", default="fake")
    parser.add_argument("--worker-id", default="fake-worker")
    parser.add_argument("--good-steps", type=int, help="lose the device after this many steps")
    arguments = parser.parse_args()
    wrap = plain if arguments.good_steps is None else partial(PoisonedExecutor, num_good_steps=arguments.good_steps)
    open_link = partial(
        fake_worker_link,
        arguments.scheduler,
        num_pages=arguments.num_pages,
        worker_id=arguments.worker_id,
        model_name=arguments.model_name,
        eos_after=arguments.eos_after,
        wrap=wrap,
    )
    asyncio.run(serve(open_link, drain_grace_s=30.0))


if __name__ == "__main__":
    main()
