"""A test that a worker whose device is lost ends with its own exit code and is restarted, and that its streams lose nothing."""

import asyncio
import sys
from pathlib import Path

from pagoda.cli.child import ChildCommand
from pagoda.cli.supervisor import Supervisor
from pagoda.rpc.grpc_channel import open_channel
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2
from tests.fakes.engine import continuation
from tests.fakes.scheduler_process import instant_worker, scheduler, wait_until_ready
from tests.fakes.waiting import until

PROMPT = list(b"Who is still there?")
NUM_STREAMS = 4
MAX_TOKENS = 100
GOOD_STEPS = 20


async def test_a_worker_whose_device_is_lost_ends_and_is_restarted_and_its_streams_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    log = tmp_path / "worker.log"
    async with scheduler(tmp_path) as (address, loop), open_channel(address) as channel:
        arguments = ["--scheduler", address, "--worker-id", "loses", "--good-steps", str(GOOD_STEPS)]
        command = ChildCommand(
            name="worker", arguments=[sys.executable, "-m", "tests.fakes.worker", *arguments], log=log
        )
        supervisor = Supervisor([command], say=said.append, grace_s=5)
        supervisor.settle()
        running = asyncio.create_task(supervisor.run())
        await wait_until_ready(address)
        epoch = loop.workers["loses"].info.epoch

        request = inference_pb2.GenerateRequest(
            prompt_token_ids=PROMPT,
            sampling=types_pb2.SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, ignore_eos=True),
        )
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        calls = [stub.Generate(request) for _ in range(NUM_STREAMS)]
        await until(lambda: bool(said))
        async with instant_worker(address, worker_id="other"):
            for call in calls:
                tokens = [token async for event in call for token in event.tokens.token_ids]
                assert tokens == continuation(PROMPT, MAX_TOKENS)
            await until(lambda: "loses" in loop.workers and loop.workers["loses"].info.epoch > epoch)
        await supervisor.stop()
        await running
    # The device is lost again if the restarted worker gets some of the streams.
    assert all(line.startswith("The worker exited (exit code 70: its device was lost); restarting it") for line in said)
    assert "device lost; exiting so that a new process can use it" in log.read_text().splitlines()
    assert "Traceback" not in log.read_text()
