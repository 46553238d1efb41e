"""How much memory a worker takes: its weights, its pages, and a bounded rest."""

import sys

import grpc
import httpx
import pytest

from bench.processes import peak_bytes
from protos.v1 import inference_pb2, inference_pb2_grpc
from tests.e2e.conftest import StartSystem

BESIDE_BYTES = 400_000_000
"""318 MB were measured with all pages in use, of which 260 are there once torch is imported."""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much it was at most")
def test_the_workers_peak(start_system: StartSystem) -> None:
    """Loading and long steps included. The pages are few, so that those that were never written hide nothing."""
    system = start_system("--kv-memory", "64MiB")
    system.wait_until_ready()
    prompts = [list(range(1000 * number, 1000 * number + 600)) for number in range(1, 5)]
    request = {"model": "smollm2:135m", "prompt": prompts, "max_tokens": 4}
    httpx.post(f"{system.url}/v1/completions", json=request, timeout=240, trust_env=False).raise_for_status()
    with grpc.insecure_channel(system.scheduler_address) as channel:
        load = inference_pb2_grpc.InferenceServiceStub(channel).GetLoad(inference_pb2.GetLoadRequest(), timeout=60)
    worker, process = load.workers[0], system.tier("worker")
    assert process is not None
    assert peak_bytes(process) <= worker.weights_bytes + worker.kv_bytes + BESIDE_BYTES
