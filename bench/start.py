"""`python -m bench start` measures the time from `pagoda serve` to the first token, with and without compiled kernels.

Each start is a whole system on a home directory that has the models of PAGODA_HOME and nothing else, unless stated.
Rounds are interleaved. The operating system's file cache stays warm between starts. The tiers' logs show where the time
goes.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.processes import READY_DEADLINE_S, free_port, python_module
from bench.report import write_numbers
from bench.workloads import NEUTRAL
from pagoda.cli.options import resolve_home
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.pull import open_puller
from pagoda.models.store import ModelStore

POLL_S = 0.01
QUESTION = {**NEUTRAL, "prompt": "What is a pagoda?", "max_tokens": 4, "stream": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The files and tools besides the model that a starting server finds."""

    name: str
    library: bool = False
    """True if an earlier start has compiled the native library."""
    compiler: bool = True
    """True if a compiler is in PATH."""


STARTS = (
    Found(name="the native library, compiled by an earlier start", library=True),
    Found(name="a compiler"),
    Found(name="no compiler in the path", compiler=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartResult:
    found: str
    kernels: str
    """"native" or "torch". Without a compiler in PATH, the package ziglang is used if it is installed."""
    first_token_s: tuple[float, ...]
    """Seconds to the first token, one value per round."""


def start(
    model: Annotated[str, typer.Option(help="Model to serve. It is fetched before if it is missing.")] = DEFAULT_MODEL,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure the time from `pagoda serve` to the first token."""
    store = ModelStore(resolve_home(None))
    open_puller(store.layout.models.parent).ensure(model, lambda _: None)
    with home_with(store.directory) as used_home:
        first_token_s(used_home, model)  # Compiles.
        times: dict[Found, list[float]] = {found: [] for found in STARTS}
        kernels: dict[Found, str] = {}
        for found in STARTS * rounds:
            with contextlib.nullcontext(used_home) if found.library else home_with(store.directory) as home:
                times[found].append(first_token_s(home, model, None if found.compiler else without_compiler(home)))
                kernels[found] = kernels_used(home)
    results = [
        StartResult(found=found.name, kernels=kernels[found], first_token_s=tuple(times[found])) for found in STARTS
    ]
    Console(stderr=True).print(table(results))
    write_numbers({"model": model}, results, output)


@contextlib.contextmanager
def home_with(models: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pagoda-start-") as directory:
        (Path(directory) / "models").symlink_to(models)
        yield Path(directory)


def without_compiler(home: Path) -> Mapping[str, str]:
    """Return an environment without a compiler in PATH, and with an empty cache for the package ziglang."""
    kept = {name: value for name, value in os.environ.items() if name != "CC"}
    return kept | {
        "PATH": str(home),
        "ZIG_GLOBAL_CACHE_DIR": str(home / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(home / "zig"),
    }


def first_token_s(home: Path, model: str, environment: Mapping[str, str] | None = None) -> float:
    port = free_port()
    arguments = ("serve", "--home", str(home), "--model", model, "--port", str(port), "--ollama-port", "0")
    started_s = time.perf_counter()
    with python_module("pagoda.cli", *arguments, environment=environment) as process:
        wait_for_first_token(process, f"http://127.0.0.1:{port}/v1/completions")
        return time.perf_counter() - started_s


def wait_for_first_token(process: psutil.Popen, url: str) -> None:
    """Send the request again and again until the server answers it."""
    deadline_s = time.monotonic() + READY_DEADLINE_S
    with httpx.Client(trust_env=False, timeout=READY_DEADLINE_S) as client:
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                raise SystemExit(f"The server exited with status {process.returncode}; its output is above.")
            with contextlib.suppress(httpx.TransportError), client.stream("POST", url, json=QUESTION) as response:
                if response.is_success and any(line.startswith("data:") for line in response.iter_lines()):
                    return
            time.sleep(POLL_S)
    raise SystemExit(f"The server did not answer within {READY_DEADLINE_S:g} s.")


def kernels_used(home: Path) -> str:
    """Return "native" or "torch", from the log of the latest start on this home."""
    log = max(home.glob("run/*/worker.log"), key=lambda path: path.stat().st_mtime)
    return "native" if "native kernels loaded" in log.read_text() else "torch"


def table(results: list[StartResult]) -> Table:
    columns = Table(title="Seconds from pagoda serve to the first token", title_justify="left")
    for name in ("found beside the model", "kernels", "least", "median", "most"):
        columns.add_column(name, justify="left" if name in ("found beside the model", "kernels") else "right")
    for result in results:
        ordered = sorted(result.first_token_s)
        shown = (ordered[0], ordered[len(ordered) // 2], ordered[-1])
        columns.add_row(result.found, result.kernels, *(f"{seconds:.1f}" for seconds in shown))
    return columns
