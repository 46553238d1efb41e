"""`python -m bench footprint` compares a model's memory and start with the size of its file.

Each model is started three times on one home. The first start compiles the native library if it is missing. The second one
packs the weights (cold), the third one reads the packed weights (warm). The operating system's file cache stays warm. Memory is
the worker's.
"""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.processes import free_port, peak_bytes, python_module, tier_process, wait_until_ready
from bench.report import write_numbers
from pagoda.models.packed_weights import packed_directory, packed_files
from pagoda.rpc.grpc_channel import open_channel
from pagoda.rpc.sockets import scheduler_address
from protos.v1 import inference_pb2, inference_pb2_grpc

MB = 1e6
WRITTEN_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintResult:
    model: str
    file_bytes: int
    weights_bytes: int
    worker_bytes: int
    """Resident memory of the worker after a warm start."""
    cold_peak_bytes: int
    """Peak of the worker that packs."""
    cold_ready_s: float
    """Seconds from the start of the command to the first answer of /ready."""
    warm_ready_s: float

    @property
    def weights_ratio(self) -> float:
        return self.weights_bytes / self.file_bytes

    @property
    def peak_beyond_file_bytes(self) -> int:
        return self.cold_peak_bytes - self.file_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    ready_s: float
    weights_bytes: int
    worker_bytes: int
    peak_bytes: int


def footprint(
    models: Annotated[list[Path], typer.Argument(help="GGUF files.")],
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Compare a model's memory and start with the size of its file."""
    with tempfile.TemporaryDirectory(prefix="pagoda-footprint-") as directory:
        home = Path(directory)
        results = [measure(home, model) for model in models]
    Console(stderr=True).print(table(results))
    write_numbers({}, results, output)


def measure(home: Path, model: Path) -> FootprintResult:
    """Start a model three times, and return the numbers of the last two starts."""
    with served(home, model):
        pass
    shutil.rmtree(packed_directory(home), ignore_errors=True)
    with served(home, model) as cold:
        wait_until_written(home)
    with served(home, model) as warm:
        pass
    return FootprintResult(
        model=model.name,
        file_bytes=model.stat().st_size,
        weights_bytes=warm.weights_bytes,
        worker_bytes=warm.worker_bytes,
        cold_peak_bytes=cold.peak_bytes,
        cold_ready_s=cold.ready_s,
        warm_ready_s=warm.ready_s,
    )


@contextlib.contextmanager
def served(home: Path, model: Path) -> Iterator[Started]:
    """Serve a model, and yield the numbers of its start once it is ready."""
    port = free_port()
    arguments = ("serve", "--home", str(home), "--model", str(model.absolute()), "--port", str(port))
    started_s = time.perf_counter()
    with python_module("pagoda.cli", *arguments, "--ollama-port", "0") as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}")
        ready_s = time.perf_counter() - started_s
        worker = tier_process("worker")
        yield Started(
            ready_s=ready_s,
            weights_bytes=asyncio.run(weights_bytes(scheduler_address(home, str(port)))),
            worker_bytes=worker.memory_info().rss,
            peak_bytes=peak_bytes(worker),
        )
    with contextlib.suppress(psutil.Error):
        process.wait(30)


async def weights_bytes(address: str) -> int:
    """Return the memory of the weights as the only worker of a scheduler reports it."""
    async with open_channel(address) as channel:
        stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
        (worker,) = (await stub.GetLoad(inference_pb2.GetLoadRequest())).workers
        return worker.weights_bytes


def wait_until_written(home: Path) -> None:
    """Wait for the file of packed weights. Raises SystemExit if there is none within WRITTEN_DEADLINE_S."""
    deadline_s = time.monotonic() + WRITTEN_DEADLINE_S
    while not packed_files(home):
        if time.monotonic() > deadline_s:
            raise SystemExit(
                f"No packed weights were written within {WRITTEN_DEADLINE_S:g} s; the worker's log says why."
            )
        time.sleep(0.2)


def table(results: list[FootprintResult]) -> Table:
    """Return the results as a table, one row per model; sizes are in MB."""
    columns = Table(title="Memory and start beside the file", title_justify="left")
    for name in ("model", "file", "weights", "/ file", "worker", "peak", "peak - file", "cold", "warm"):
        columns.add_column(name, justify="left" if name == "model" else "right")
    for result in results:
        file, weights, worker, peak, beyond = (
            f"{size / MB:.0f}"
            for size in (
                result.file_bytes,
                result.weights_bytes,
                result.worker_bytes,
                result.cold_peak_bytes,
                result.peak_beyond_file_bytes,
            )
        )
        times = (f"{result.cold_ready_s:.1f} s", f"{result.warm_ready_s:.1f} s")
        columns.add_row(result.model, file, weights, f"{result.weights_ratio:.2f}", worker, peak, beyond, *times)
    return columns
