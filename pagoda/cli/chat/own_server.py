"""A server for one chat: `pagoda serve` as a child process on a separate loopback port.

Its output goes to a log. On Linux it also ends if the chat is killed.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from pagoda.api_keys.key_file import new_key
from pagoda.cli.child import Child, ChildCommand, describe_exit
from pagoda.cli.failure import CommandError
from pagoda.cli.logs import begin_anew, last_lines
from pagoda.process.background import end_tasks
from pagoda.rpc.sockets import make_private_directory

READY_DEADLINE_S = 300.0
_STOP_GRACE_S = 30.0
_POLL_S = 0.05
# Without the default port, which is for `pagoda serve`. A fixed range, so that the same few log directories are reused.
_PORTS = range(8001, 8100)


class OwnServer:
    """The server of one chat. It starts when the object is made; `close` stops it."""

    def __init__(self, model: str, home: Path) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.api_key = new_key()
        self._log = home / "run" / f"chat-{port}.log"
        make_private_directory(self._log.parent)
        begin_anew(self._log)
        self._runner = asyncio.Runner()
        self._child = self._runner.run(Child.start(_serve(model, home, port, self.api_key, self._log)))

    def wait_until_ready(self) -> None:
        """Wait until the server is ready. Raises CommandError with the server's own error if it does not start."""
        self._runner.run(self._wait_until_ready())

    def close(self) -> None:
        self._runner.run(self._child.stop(_STOP_GRACE_S))
        self._runner.close()

    async def _wait_until_ready(self) -> None:
        ready = asyncio.create_task(_answers(f"{self.url}/ready"))
        ended = asyncio.create_task(self._child.wait())
        try:
            done, _ = await asyncio.wait((ready, ended), timeout=READY_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(ready, ended)
        if ready in done:
            ready.result()
            return
        reason = describe_exit(ended.result()) if ended in done else f"not ready after {READY_DEADLINE_S:g} s"
        raise CommandError(f"the server did not start ({reason}): {self._why()}")

    def _why(self) -> str:
        """Return the last error that `pagoda serve` printed, or the path of its log."""
        errors = [line for line in last_lines(self._log, 20) if line.startswith("Error: ")]
        return errors[-1].removeprefix("Error: ") if errors else f"see {self._log}"


def _serve(model: str, home: Path, port: int, api_key: str, log: Path) -> ChildCommand:
    flags = ["--model", model, "--home", str(home), "--port", str(port)]
    arguments = [sys.executable, "-P", "-m", "pagoda.cli", "serve", *flags]
    # It keeps off Ollama's port, because other clients must not find a server that ends with the chat. It gets a key of its own,
    # because the secrets of its home's keys are not known here.
    environment = {"PAGODA_GATEWAY_OLLAMA_PORT": "0", "PAGODA_API_KEY": api_key}
    return ChildCommand(name="server", arguments=arguments, log=log, environment=environment)


async def _answers(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(url)).is_success:
                    return
            await asyncio.sleep(_POLL_S)


def _free_port() -> int:
    port = next(_bindable(_PORTS), None)
    if port is None:
        raise CommandError(f"no free port from {_PORTS.start} to {_PORTS.stop - 1}; stop another program that uses one")
    return port


def _bindable(ports: range) -> Iterator[int]:
    for port in ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            yield port
