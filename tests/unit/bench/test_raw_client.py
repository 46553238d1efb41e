"""Tests of the cheap client: exact counts however the network splits an answer, and errors."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.raw_client import Plan, run

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ANSWER = HEAD + b'8\r\n{"a":1}\n\r\n8\r\n{"a":2}\n\r\nb\r\n{"count":7}\r\n0\r\n\r\n'


def plan(num_requests: int) -> Plan:
    return Plan(
        path="/", body={}, num_requests=num_requests, concurrency=2, event_mark='"a":', count_pattern=r'"count":(\d+)'
    )


@contextmanager
def server(pieces: list[bytes]) -> Iterator[tuple[str, int]]:
    """Run a server that answers each request with the pieces, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, pieces), daemon=True).start()
        yield "127.0.0.1", listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, pieces: list[bytes]) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, pieces), daemon=True).start()


def _answer(connection: socket.socket, pieces: list[bytes]) -> None:
    with connection, contextlib.suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while connection.recv(65536):
            for piece in pieces:
                connection.sendall(piece)


@pytest.mark.parametrize("size", [1, 7, len(ANSWER)])
def test_events_and_tokens_are_counted_however_the_answer_is_cut(size: int) -> None:
    pieces = [ANSWER[start : start + size] for start in range(0, len(ANSWER), size)]
    with server(pieces) as address:
        counts = run(plan(num_requests=5), address)
    assert (counts.num_events, counts.num_tokens) == (2 * 5, 7 * 5)


def test_a_refusal_ends_the_run() -> None:
    with server([b"HTTP/1.1 503 Service Unavailable\r\n\r\n"]) as address:
        with pytest.raises(SystemExit, match="The server refused"):
            run(plan(num_requests=1), address)


def test_an_answer_without_a_number_of_tokens_ends_the_run() -> None:
    with server([HEAD + b"0\r\n\r\n"]) as address:
        with pytest.raises(SystemExit, match="number of tokens"):
            run(plan(num_requests=1), address)
