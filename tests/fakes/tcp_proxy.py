"""A network between a client and a server in this process. A test can slow it down, freeze it or break connections."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TCPProxy:
    """A proxy that passes bytes on in both directions; `tcp_proxy` creates it."""

    def __init__(self, target: str) -> None:
        self.port = 0
        self.delay_s = 0.0
        """Delay of each piece of data, in seconds."""
        self._target = target
        self._requests_flow = asyncio.Event()
        self._answers_flow = asyncio.Event()
        self.thaw()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def freeze(self, *, answers_only: bool = False) -> None:
        """Stop passing data, without closing anything, as if a cable was pulled. New connections seem to succeed."""
        self._answers_flow.clear()
        if not answers_only:
            self._requests_flow.clear()

    def thaw(self) -> None:
        """Pass data on again, starting with what was sent in the meantime."""
        self._requests_flow.set()
        self._answers_flow.set()

    async def break_off(self) -> None:
        """Close all connections. New ones are accepted immediately."""
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            answers, requests = await self._dial()
            with contextlib.closing(requests):
                up = asyncio.create_task(self._pass_on(reader, requests, self._requests_flow))
                down = asyncio.create_task(self._pass_on(answers, writer, self._answers_flow))
                try:
                    # This returns when either end closes.
                    await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    up.cancel()
                    down.cancel()
                    await asyncio.gather(up, down, return_exceptions=True)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.startswith("unix://"):
            return await asyncio.open_unix_connection(self._target.removeprefix("unix://"))
        host, _, port = self._target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        while data := await source.read(65536):
            await asyncio.sleep(self.delay_s)
            await flows.wait()
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def tcp_proxy(target: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[TCPProxy]:
    """Run a proxy on a free port of 127.0.0.1 for `target` (`host:port` or `unix:///path`); with `tls`, it terminates TLS."""
    proxy = TCPProxy(target)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.break_off()
