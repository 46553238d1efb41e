"""`python -m gateway` with a probe that measures how long the event loop was blocked, in processor time.

A connection to the unix socket $PAGODA_TEST_PROBE gets one line of JSON with the longest times since the last connection:
`loop_s`, processor time of the loop's thread between two turns of a timer, and `process_s`, the same of all threads. A thread
that keeps the interpreter's lock shows in the second only.
"""

import asyncio
import json
import os
import socket
import sys
import time

from fastapi import FastAPI

import gateway.__main__ as gateway_main
from gateway.settings import GatewaySettings

TICK_S = 0.005


class Probe:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst_loop_s = self._worst_process_s = 0.0
        self._last = (time.thread_time(), time.process_time())
        self._tick()

    def _tick(self) -> None:
        self._measure()
        self._loop.call_later(TICK_S, self._tick)

    def _measure(self) -> None:
        now = (time.thread_time(), time.process_time())
        self._worst_loop_s = max(self._worst_loop_s, now[0] - self._last[0])
        self._worst_process_s = max(self._worst_process_s, now[1] - self._last[1])
        self._last = now

    async def report(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._measure()
        writer.write(json.dumps({"loop_s": self._worst_loop_s, "process_s": self._worst_process_s}).encode() + b"\n")
        self._worst_loop_s = self._worst_process_s = 0.0
        await writer.drain()
        writer.close()


async def serve_probed(settings: GatewaySettings, app: FastAPI, sockets: list[socket.socket]) -> int:
    probe = Probe()
    async with await asyncio.start_unix_server(probe.report, os.environ["PAGODA_TEST_PROBE"]):
        return await serve(settings, app, sockets)


serve = gateway_main._serve

if __name__ == "__main__":
    gateway_main._serve = serve_probed
    sys.exit(gateway_main.main())
