"""Tests of a worker's memory: its weights, its pages, and a limited rest."""

import subprocess
import sys

import grpc
import httpx
import pytest

from bench.processes import peak_bytes
from protos.v1 import inference_pb2, inference_pb2_grpc
from tests.e2e.conftest import StartSystem

BESIDE_TORCH_BYTES = 175_000_000
"""Maximum memory besides weights, pages and the import of torch.

Torch's CPU build takes 225 MB when imported, so that the limit is 400 MB besides weights and pages; 320 MB were measured. Its CUDA
build, which an installation may have, takes 300 MB more.
"""


def import_bytes() -> int:
    """Return the memory of a process that has only imported torch."""
    code = "import torch, psutil; print(psutil.Process().memory_info().rss)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak")
def test_the_workers_peak(start_system: StartSystem) -> None:
    """A worker's peak memory, during loading and long steps, is within the limit. It has few pages: unwritten ones take none."""
    system = start_system("--kv-memory", "64MiB")
    system.wait_until_ready()
    prompts = [list(range(1000 * number, 1000 * number + 600)) for number in range(1, 5)]
    request = {"model": "smollm2:135m", "prompt": prompts, "max_tokens": 4}
    httpx.post(f"{system.url}/v1/completions", json=request, timeout=240, trust_env=False).raise_for_status()
    with grpc.insecure_channel(system.scheduler_address) as channel:
        load = inference_pb2_grpc.InferenceServiceStub(channel).GetLoad(inference_pb2.GetLoadRequest(), timeout=200)
    worker, process = load.workers[0], system.tier("worker")
    assert process is not None
    assert peak_bytes(process) <= worker.weights_bytes + worker.kv_bytes + import_bytes() + BESIDE_TORCH_BYTES
