"""Tests of `python -m worker` and the instant worker as processes: they attach, compute, and end with the right exit status."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

from pagoda.wire.constraint import Constraint
from pagoda.wire.sampling import SamplingParams
from protos.v1 import types_pb2, worker_pb2
from tests.fakes.engine import continuation
from tests.fakes.native_code import give_native_code
from tests.fakes.scheduler_stream import FakeScheduler, FakeSession, serving
from tests.fakes.tiny_model import IM_END, write_tiny_gguf

PROMPT = list(b"hello")


@asynccontextmanager
async def process(module: str, *flags: str) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *flags, stderr=PIPE)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def first_tokens(session: FakeSession, sampling: types_pb2.SamplingParams | None = None) -> list[int]:
    new = worker_pb2.NewSequence(
        sequence_id=1,
        attempt=1,
        token_ids=PROMPT,
        num_prompt_tokens=len(PROMPT),
        sampling=sampling or types_pb2.SamplingParams(temperature=0.0),
    )
    scheduled = worker_pb2.ScheduledSequence(
        sequence_id=1, start=0, num_tokens=len(PROMPT), new_page_ids=[0], max_new_tokens=1
    )
    session.send_step(worker_pb2.Step(step_id=1, new_sequences=[new], scheduled=[scheduled]))
    sampled = (await session.result()).sampled_batch
    return list(sampled.token_ids)


async def test_a_worker_attaches_computes_and_leaves_on_sigterm(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    scheduler, address = FakeScheduler(), f"unix:{tmp_path / 's.sock'}"
    flags = ["--model", str(model), "--scheduler", address, "--kv-memory", "1MiB", "--threads", "1"]
    home = give_native_code(tmp_path / "home")
    async with serving(scheduler, address), process("worker", "--home", str(home), *flags) as worker:
        session = await scheduler.sessions.get()
        assert session.hello.model.name == "tiny"
        assert len(await first_tokens(session)) == 1
        worker.send_signal(signal.SIGTERM)
        assert (await session.leavings.get()).grace_ms == 30_000
        session.send_drain()
        await session.worker_left()
        assert await worker.wait() == 0


async def test_a_worker_masks_tokens_by_a_constraint(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    scheduler, address = FakeScheduler(), f"unix:{tmp_path / 's.sock'}"
    flags = ["--model", str(model), "--scheduler", address, "--kv-memory", "1MiB", "--threads", "1"]
    home = give_native_code(tmp_path / "home")
    grammar = 'start: "yes" | "no"'
    constraint = Constraint(grammar=grammar, digest=sha256(grammar.encode()).digest())
    sampling = SamplingParams(seed=5, min_tokens=9, constraint=constraint).to_proto()
    async with serving(scheduler, address), process("worker", "--home", str(home), *flags):
        session = await scheduler.sessions.get()
        answer = [*(await first_tokens(session, sampling))]
        while IM_END not in answer:
            decode = worker_pb2.DecodeBatch(sequence_ids=[1], starts=[len(PROMPT) + len(answer) - 1])
            session.send_step(worker_pb2.Step(step_id=len(answer) + 1, decode_batch=decode))
            result = await session.result()
            answer += [*result.sampled_batch.token_ids, *(each.token_ids[0] for each in result.sampled)]
    assert bytes(answer[:-1]) in (b"yes", b"no")


async def test_a_worker_that_cannot_start_says_why_and_fails(tmp_path: Path) -> None:
    flags = ["--home", str(tmp_path), "--model", str(tmp_path / "nothing.gguf")]
    async with process("worker", *flags) as worker:
        _, errors = await worker.communicate()
        assert worker.returncode == 1
    assert "cannot start" in errors.decode()
    assert "nothing.gguf" in errors.decode().splitlines()[-1]


async def test_the_instant_worker_is_a_process_too(tmp_path: Path) -> None:
    scheduler, address = FakeScheduler(), f"unix:{tmp_path / 's.sock'}"
    async with serving(scheduler, address), process("tests.fakes.worker", "--scheduler", address) as worker:
        session = await scheduler.sessions.get()
        assert await first_tokens(session) == continuation(PROMPT, 1)
        worker.send_signal(signal.SIGTERM)
        await session.leavings.get()
        session.send_drain()
        assert await worker.wait() == 0


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    scheduler, address = FakeScheduler(), f"unix:{tmp_path / 's.sock'}"
    async with serving(scheduler, address), process("tests.fakes.worker", "--scheduler", address) as worker:
        session = await scheduler.sessions.get()
        await first_tokens(session)
        worker.send_signal(signal.SIGTERM)
        await session.leavings.get()
        worker.send_signal(signal.SIGINT)
        assert await worker.wait() == 128 + signal.SIGINT
