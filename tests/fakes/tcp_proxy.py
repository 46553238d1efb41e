"""A network between a client and a server, in this process: slow, cut without a word, or broken off, as a test wants it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class TCPProxy:
    """Passes bytes on, both ways. Made by `tcp_proxy`."""

    def __init__(self, target: str) -> None:
        self.port = 0
        self.delay_s = 0.0
        """How much later each piece of data arrives."""
        self.num_requests = 0
        """How often a client spoke first of all, or after it had been answered: the round trips."""
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """Like a cable that was pulled: nothing arrives any more, and nobody is told. Connections seem to be made."""
        self._flows.clear()

    def thaw(self) -> None:
        """What was sent meanwhile arrives."""
        self._flows.set()

    async def break_off(self) -> None:
        """Close all connections. New ones can be made at once."""
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
                await self._pass_on_both_ways(reader, requests, answers, writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.startswith("unix://"):
            return await asyncio.open_unix_connection(self._target.removeprefix("unix://"))
        host, _, port = self._target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pass_on_both_ways(
        self,
        reader: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Until either end closes."""
        was_answered = True

        def asked() -> None:
            nonlocal was_answered
            self.num_requests += was_answered
            was_answered = False

        def answered() -> None:
            nonlocal was_answered
            was_answered = True

        ways = [
            asyncio.create_task(self._pass_on(reader, requests, asked)),
            asyncio.create_task(self._pass_on(answers, writer, answered)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, on_data: Callable[[], None]
    ) -> None:
        while data := await source.read(65536):
            on_data()
            await asyncio.sleep(self.delay_s)
            await self._flows.wait()
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def tcp_proxy(target: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[TCPProxy]:
    """Listening on a free port of 127.0.0.1 for `target`, `host:port` or `unix:///path`; with `tls`, which ends here."""
    proxy = TCPProxy(target)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.break_off()
