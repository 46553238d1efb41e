"""A `pagoda serve` for benchmarks that were given no URL."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from bench.processes import free_port, python_module, wait_until_ready


@contextlib.contextmanager
def own_server(
    model: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a new server on a free port while the block runs, and yield its OpenAI base URL."""
    port = free_port()
    named = ("--model", model) if model else ()
    command = ("pagoda.cli", "serve", "--port", str(port), *named, *arguments)
    with python_module(*command, environment=environment) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}/v1"
