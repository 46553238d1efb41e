"""Downloads from servers that break, lie, throttle and change: the exact file or an error, and what was received is resumed."""

import hashlib
import logging
import re
from collections.abc import Sequence
from email.utils import formatdate
from time import time

import httpx
import pytest

from pagoda.models.errors import ModelAccessError, ModelSourceError
from pagoda.models.sources import attempts, file_request
from pagoda.models.sources.file_request import InterruptedDownloadError
from pagoda.models.sources.interruption import Interruption
from pagoda.models.sources.remote import RemoteFile
from tests.fakes.downloads import Downloads, git_oid, some_bytes
from tests.fakes.file_server import Fault, FileServer
from tests.unit.pagoda.models.sources.conftest import PIECE_BYTES

SMALL = some_bytes(PIECE_BYTES)
LARGE = some_bytes(5 * PIECE_BYTES + 17)
WRONG = some_bytes(PIECE_BYTES, seed=1)


def test_a_server_that_brings_nothing_new_is_given_up_and_later_resumed(
    downloads: Downloads, server: FileServer
) -> None:
    file = downloads.serve("model.gguf", SMALL)
    server.faults = [Fault(cut_after=20_000)]
    server.always = Fault(cut_after=0)
    with pytest.raises(
        ModelSourceError, match=r"download of model\.gguf stopped after 0\.0 MB .*; pull again to resume it"
    ):
        downloads.run(file)
    assert len(server.requests) == 1 + attempts.MAX_FAILURES
    assert downloads.unfinished() == ["model.gguf.partial", "model.gguf.partial.state"]
    server.always = Fault()
    assert downloads.run(file)[0] == 20_000


def test_a_server_without_ranges_that_always_breaks_at_one_place_is_given_up(
    downloads: Downloads, server: FileServer
) -> None:
    server.always = Fault(has_ranges=False, cut_after=20_000)
    with pytest.raises(ModelSourceError, match="pull again to resume it"):
        downloads.run(downloads.serve("model.gguf", SMALL))
    assert len(server.requests) == 1 + attempts.MAX_FAILURES


def test_a_server_that_cannot_be_reached_is_named(downloads: Downloads, server: FileServer) -> None:
    file = downloads.serve("model.gguf", SMALL)
    server.redirect, server.port = 307, 9
    with pytest.raises(
        ModelSourceError,
        match=r"^model\.gguf could not be downloaded from 127\.0\.0\.1 \(.*[Cc]onnect.*\); check the network and pull again$",
    ):
        downloads.run(file)


PASSING = {
    "408": [Fault(status=408)],
    "429": [Fault(status=429, headers={"Retry-After": "0"})],
    "500": [Fault(status=500)] * 5,
    "503": [Fault(status=503, headers={"Retry-After": "yesterday"})],
    "504": [Fault(status=504, body=b"<html>")],
    "cut before the first byte": [Fault(cut_after=0)] * 5,
    "web page": [Fault(body=b"<html>please log in</html>", headers={"Content-Type": "text/html; charset=utf-8"})],
    "web page of the right size": [Fault(body=WRONG, headers={"Content-Type": "text/html"})],
    "compressed": [Fault(headers={"Content-Encoding": "gzip"})],
    "too short": [Fault(body=SMALL[:-1])],
    "too short, without a length": [Fault(body=SMALL[:-1], has_length=False)],
    "without a length": [Fault(has_length=False)],
    "cut, without a length": [Fault(has_length=False, cut_after=10_000)],
    "416": [Fault(cut_after=100), Fault(status=416, headers={"Content-Range": "bytes */10"})],
    "no Content-Range": [Fault(cut_after=100), Fault(headers={"Content-Range": ""})],
    "other start": [Fault(cut_after=100), Fault(headers={"Content-Range": f"bytes 99-{len(SMALL) - 1}/{len(SMALL)}"})],
    "other end": [Fault(cut_after=100), Fault(headers={"Content-Range": f"bytes 100-{len(SMALL)}/{len(SMALL)}"})],
    "other size": [Fault(cut_after=100), Fault(headers={"Content-Range": f"bytes 100-{len(SMALL) - 1}/999"})],
    "endless numbers": [Fault(cut_after=100), Fault(headers={"Content-Range": f"bytes {'9' * 5000}-1/1"})],
    "ETag that is not ASCII": [Fault(cut_after=100, headers={"ETag": '"né"'})],
    "shorter range": [Fault(cut_after=100), Fault(body=SMALL[100:200], headers={"Content-Range": "bytes 100-199/*"})],
    "redirect to nowhere": [Fault(status=302, headers={"Location": "http://[nowhere"})],
    "redirect to another protocol": [Fault(status=302, headers={"Location": "ftp://127.0.0.1/model.gguf"})],
    "redirect without a place": [Fault(status=503)],
}
"""Faults of single answers, after which the download succeeds."""


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING.keys())
@pytest.mark.parametrize("has_digest", [True, False])
def test_after_a_passing_fault_the_file_is_right(
    downloads: Downloads, server: FileServer, faults: Sequence[Fault], has_digest: bool
) -> None:
    server.faults = [*faults]
    downloads.run(downloads.serve("model.gguf", SMALL, digest="sha256" if has_digest else None))
    assert len(server.requests) > len(faults) or not faults[0].has_length


def test_wrong_bytes_in_one_of_two_answers_are_downloaded_once_more(downloads: Downloads, server: FileServer) -> None:
    server.faults = [Fault(body=WRONG, cut_after=100)]
    downloads.run(downloads.serve("model.gguf", SMALL))
    assert downloads.ranges == [None, "bytes=100-", None]


def test_bytes_after_the_end_of_a_range_are_not_used(downloads: Downloads, server: FileServer) -> None:
    server.faults = [Fault(cut_after=100), Fault(surplus=b"surplus")]
    downloads.run(downloads.serve("model.gguf", SMALL))
    assert downloads.statuses == [200, 206]


LASTING = {
    "500": (Fault(status=500), "HTTP status 500 from 127.0.0.1"),
    "web page": (Fault(body=b"<html>", headers={"Content-Type": "text/html"}), "sent a web page instead of the file"),
    "compressed": (Fault(headers={"Content-Encoding": "br"}), "sent the file in a compressed form"),
    "short": (Fault(body=b"short"), "has 5 bytes .expected 50000."),
    "redirect loop": (Fault(status=302, headers={"Location": "/model.gguf"}), "more than 10 redirects"),
    "cut": (Fault(cut_after=0), "closed connection"),
}


@pytest.mark.parametrize(("fault", "message"), LASTING.values(), ids=LASTING.keys())
def test_a_lasting_fault_is_named(downloads: Downloads, server: FileServer, fault: Fault, message: str) -> None:
    server.always = fault
    with pytest.raises(ModelSourceError, match=message):
        downloads.run(downloads.serve("model.gguf", SMALL))
    assert not (downloads.directory / "model.gguf").exists()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ModelSourceError),
        (401, ModelAccessError),
        (403, ModelAccessError),
        (404, ModelSourceError),
        (410, ModelSourceError),
        (204, ModelSourceError),
    ],
)
def test_a_refusal_ends_the_download_at_once(
    downloads: Downloads, server: FileServer, status: int, error: type[ModelSourceError]
) -> None:
    server.always = Fault(status=status)
    with pytest.raises(error, match=rf"127\.0\.0\.1 .* model\.gguf \(HTTP status {status}\)"):
        downloads.run(downloads.serve("model.gguf", SMALL))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text", ["", "-1", "1e999", "٣", "Mon, 99 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 1970", "9" * 400]
)
def test_any_retry_after_is_a_short_wait(
    downloads: Downloads, server: FileServer, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Interruption, "wait", lambda self, seconds: waits.append(seconds))
    response = httpx.Response(503, headers=[(b"Retry-After", text.encode())])
    error = InterruptedDownloadError("HTTP status 503", retry_after_s=file_request._retry_after_s(response))
    file = downloads.serve("model.gguf", SMALL)
    attempts.Attempts(file, Interruption()).fail(error, 1, has_own=False, has_any=False)
    assert len(waits) == 1 and 0 <= waits[0] <= attempts.MAX_WAIT_S


def test_waits_grow_and_obey_the_server(
    downloads: Downloads, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(attempts, "FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(Interruption, "wait", lambda self, seconds: waits.append(seconds))
    in_an_hour = formatdate(time() + 3600, usegmt=True)
    server.faults = [
        Fault(cut_after=100),
        Fault(status=500),
        Fault(status=500),
        Fault(status=429, headers={"Retry-After": "17"}),
        Fault(status=503, headers={"Retry-After": in_an_hour}),
    ]
    downloads.run(downloads.serve("model.gguf", SMALL))
    assert waits == [0.5, 1.0, 2.0, 17.0, attempts.MAX_WAIT_S]


def test_a_refused_connection_is_not_given_up_while_others_advance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_WAIT_S", 0.0)
    waiting = attempts.Attempts(RemoteFile(path="model.gguf", url="http://host/", size_bytes=9), Interruption())
    throttled = InterruptedDownloadError("HTTP status 429")
    for _ in range(100):
        waiting.fail(throttled, 1_000, has_own=False, has_any=True)
    for _ in range(attempts.MAX_FAILURES - 1):
        waiting.fail(throttled, 1_000, has_own=False, has_any=False)
    with pytest.raises(ModelSourceError, match="HTTP status 429"):
        waiting.fail(throttled, 1_000, has_own=False, has_any=False)


def test_a_silent_connection_is_replaced(
    downloads: Downloads, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_request, "READ_TIMEOUT_S", 0.2)
    server.faults = [Fault(stall_after=10_000), Fault(stall_after=0)]
    downloads.run(downloads.serve("model.gguf", SMALL))
    assert downloads.ranges == [None, "bytes=10000-", "bytes=10000-"]


def test_a_silent_server_is_named(downloads: Downloads, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_request, "READ_TIMEOUT_S", 0.05)
    server.always = Fault(stall_after=0)
    with pytest.raises(ModelSourceError, match=r"\(no answer for 0\.05 s\)"):
        downloads.run(downloads.serve("model.gguf", SMALL))


@pytest.mark.parametrize("has_etags", [True, False])
def test_a_file_without_a_digest_that_changed_starts_over(
    downloads: Downloads, server: FileServer, has_etags: bool
) -> None:
    """Only the server can tell that the file changed; if it does not, nothing is resumed."""
    server.has_etags = has_etags
    file = downloads.serve("notes.txt", WRONG, digest=None)
    server.faults = [Fault(stall_after=10_000)]
    downloads.run(file, interrupt_at=10_000)
    server.files["/notes.txt"] = SMALL
    downloads.run(file)
    assert downloads.statuses == [200, 200]
    assert (downloads.ranges[1] is not None) == has_etags


def test_a_weak_etag_does_not_identify_bytes(downloads: Downloads, server: FileServer) -> None:
    server.faults = [Fault(headers={"ETag": 'W/"1"'}, cut_after=10_000)]
    downloads.run(downloads.serve("notes.txt", SMALL, digest=None))
    assert downloads.ranges == [None, None]


def test_a_file_without_a_digest_is_resumed_if_it_is_the_same(downloads: Downloads, server: FileServer) -> None:
    file = downloads.serve("notes.txt", SMALL, digest=None)
    server.faults = [Fault(cut_after=10_000)]
    downloads.run(file)
    assert downloads.ranges == [None, "bytes=10000-"]


def test_a_range_of_a_changed_file_is_not_used(downloads: Downloads, server: FileServer) -> None:
    """This server does not understand If-Range, but sends the ETag of what it has."""
    file = downloads.serve("notes.txt", SMALL, digest=None)
    other = Fault(headers={"ETag": '"other"'}, body=WRONG[10_000:])
    server.faults = [Fault(cut_after=10_000), other]
    downloads.run(file)
    assert downloads.statuses == [200, 206, 200]


def test_a_file_that_shrank_starts_over(downloads: Downloads, server: FileServer) -> None:
    server.always = Fault(status=416)
    server.faults = [Fault(cut_after=10_000)]
    with pytest.raises(ModelSourceError, match="the file on the server is shorter than expected"):
        downloads.run(downloads.serve("model.gguf", SMALL))
    assert downloads.ranges[-1] is None


@pytest.mark.parametrize("digest", ["sha256", "git_oid"])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_file_pieced_together_from_two_versions_is_downloaded_once_more(
    downloads: Downloads, server: FileServer, digest: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = downloads.serve("model.gguf", content, digest=digest)
    server.files["/model.gguf"] = some_bytes(len(content), seed=1)
    downloads.run(file, interrupt_at=1)
    server.files["/model.gguf"] = content
    downloads.run(file)
    assert downloads.ranges[-1] is None
    assert "download damaged; restarting it" in caplog.messages


def test_a_wrong_digest_of_one_answer_is_named_and_the_file_deleted(downloads: Downloads, server: FileServer) -> None:
    file = downloads.serve("model.gguf", SMALL)
    server.always = Fault(body=WRONG)
    expected, found = (hashlib.sha256(content).hexdigest() for content in (SMALL, WRONG))
    message = f"SHA-256 mismatch for model.gguf (expected {expected}, got {found}); the file was deleted"
    with pytest.raises(ModelSourceError, match=f"^{re.escape(message)}$"):
        downloads.run(file)
    assert downloads.statuses == [200]
    assert list(downloads.directory.iterdir()) == []


def test_a_wrong_git_object_id_is_named(downloads: Downloads, server: FileServer) -> None:
    file = downloads.serve("config.json", SMALL, digest="git_oid")
    server.always = Fault(body=WRONG)
    with pytest.raises(ModelSourceError, match=rf"git object ID mismatch .* {git_oid(SMALL)}, got {git_oid(WRONG)}\)"):
        downloads.run(file)


def test_a_wrong_digest_of_many_pieces_is_refused_at_the_second_time(downloads: Downloads, server: FileServer) -> None:
    file = downloads.serve("model.gguf", LARGE)
    server.files["/model.gguf"] = some_bytes(len(LARGE), seed=1)
    with pytest.raises(ModelSourceError, match="SHA-256 mismatch"):
        downloads.run(file)
    assert downloads.statuses == [206] * 6 + [200]
    assert list(downloads.directory.iterdir()) == []


def test_a_length_that_is_a_lie(downloads: Downloads, server: FileServer) -> None:
    """The announced bytes after the file's end never come."""
    server.always = Fault(headers={"Content-Length": str(len(SMALL) + 1000)}, cut_after=len(SMALL))
    downloads.run(downloads.serve("model.gguf", SMALL))
    assert downloads.statuses == [200]


def test_a_file_that_does_not_end_is_not_read_to_the_end(downloads: Downloads, server: FileServer) -> None:
    server.always = Fault(surplus=bytes(10_000_000))
    with pytest.raises(
        ModelSourceError, match=r"model\.gguf is larger than expected \(limit: 50000 bytes\); the download was stopped"
    ):
        downloads.run(downloads.serve("model.gguf", SMALL))
    assert list(downloads.directory.iterdir()) == []


def test_interruptions_are_logged_without_addresses(
    downloads: Downloads, server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.redirect = 307
    server.faults = [Fault(cut_after=10_000), Fault(status=503)]
    with caplog.at_level(logging.INFO, logger="pagoda"):
        downloads.run(downloads.serve("model.gguf", SMALL))
    lines = [vars(record) for record in caplog.records if record.name.startswith("pagoda")]
    assert [(line["msg"], line["file"], line["bytes"]) for line in lines] == [
        ("download interrupted", "model.gguf", 10_000)
    ] * 2
    assert "signature" not in str([line["reason"] for line in lines])
