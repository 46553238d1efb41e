"""Starts a `pagoda serve` of its own for a benchmark that was given no URL."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from bench.processes import free_port, python_module, wait_until_ready


@contextlib.contextmanager
def own_server(
    model: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The OpenAI base URL of a fresh server on a free port, stopped when the block ends."""
    port = free_port()
    named = ("--model", model) if model else ()
    command = ("pagoda.cli", "serve", "--port", str(port), *named, *arguments)
    with python_module(*command, environment=environment) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}/v1"
