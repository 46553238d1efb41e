"""A load client that costs a few microseconds per chunk, so that it does not limit what it measures.

It parses no JSON: it counts a mark in the bytes of each event, and reads the number of tokens from the end of the answer.
It runs as a process of its own: `python -m bench.raw_client HOST PORT < plan.json` prints counts as JSON.
"""

import contextlib
import json
import re
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

RECEIVE_BYTES = 1 << 16
ACCEPTED = b"HTTP/1.1 200 "
END_OF_CHUNKS = b"0\r\n\r\n"
# Long enough for the usage at the end of an answer.
TAIL_BYTES = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One request, sent `num_requests` times, at most `concurrency` at a time."""

    path: str
    body: dict[str, Any]
    num_requests: int
    concurrency: int
    event_mark: str
    """Text that occurs once in each event that carries text."""
    count_pattern: str
    """Regular expression whose first group, at the end of an answer, is the number of tokens."""


@dataclass(slots=True, kw_only=True)
class Counts:
    num_tokens: int = 0
    num_events: int = 0
    duration_s: float = 0.0
    cpu_s: float = 0.0
    """Processor time of the client itself."""


class _Stream:
    """A connection that sends its next request when an answer has ended."""

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        self.socket = connection
        self._request = request
        self._tail = b""
        self._is_accepted = False

    def send(self) -> None:
        self._tail, self._is_accepted = b"", False
        self.socket.sendall(self._request)

    def receive(self, mark: bytes, counts: Counts) -> bool:
        """Read from the socket and count events. Return true if the answer has ended."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise SystemExit(f"The server closed the connection in the middle of an answer: {self._tail[-500:]!r}")
        if not self._is_accepted and len(self._tail) + len(data) >= len(ACCEPTED):
            if not (self._tail + data).startswith(ACCEPTED):
                raise SystemExit(f"The server refused the request: {data[:500]!r}")
            self._is_accepted = True
        # A mark may be split between two reads.
        overlap = self._tail[-len(mark) + 1 :]
        counts.num_events += (overlap + data).count(mark)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        return self._tail.endswith(END_OF_CHUNKS)

    def num_tokens(self, pattern: re.Pattern[bytes]) -> int:
        found = pattern.search(self._tail)
        if found is None:
            raise SystemExit(f"No number of tokens at the end of the answer: {self._tail[-500:]!r}")
        return int(found[1])


def run(plan: Plan, address: tuple[str, int]) -> Counts:
    counts = Counts()
    mark, pattern = plan.event_mark.encode(), re.compile(plan.count_pattern.encode())
    request = _http_request(plan, address)
    num_first = min(plan.concurrency, plan.num_requests)
    num_left = plan.num_requests - num_first
    start_s = time.perf_counter()
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
        for _ in range(num_first):
            stream = _Stream(opened.enter_context(socket.create_connection(address)), request)
            stream.send()
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        while selector.get_map():
            for key, _ in selector.select():
                stream = key.data
                if not stream.receive(mark, counts):
                    continue
                counts.num_tokens += stream.num_tokens(pattern)
                if num_left:
                    num_left -= 1
                    stream.send()
                else:
                    selector.unregister(stream.socket)
    counts.cpu_s = time.process_time()
    counts.duration_s = time.perf_counter() - start_s
    return counts


def _http_request(plan: Plan, address: tuple[str, int]) -> bytes:
    body = json.dumps(plan.body).encode()
    head = f"POST {plan.path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def main(arguments: Sequence[str]) -> None:
    host, port = arguments
    print(json.dumps(asdict(run(Plan(**json.load(sys.stdin)), (host, int(port))))))


if __name__ == "__main__":
    main(sys.argv[1:])
