"""Downloads from a file server of the test into a directory, each like one of a new process: only the files on disk are kept."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx

from pagoda.models.sources.progress import DownloadMeter, Progress
from pagoda.models.sources.remote import RemoteFile
from pagoda.models.sources.transfer import download_files
from tests.fakes.file_server import FileServer


def some_bytes(num_bytes: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(num_bytes)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(slots=True)
class Downloads:
    """Downloads of one test."""

    server: FileServer
    directory: Path
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the client, such as its credentials."""

    def serve(self, name: str, content: bytes, *, digest: str | None = "sha256") -> RemoteFile:
        """Put a file on the server and return its description, with a "sha256", a "git_oid" or no digest."""
        self.server.files[f"/{name}"] = content
        digests = {"sha256": hashlib.sha256(content).hexdigest(), "git_oid": git_oid(content)}
        return RemoteFile(
            path=name,
            url=f"{self.server.url}/{name}",
            size_bytes=len(content),
            **{key: value for key, value in digests.items() if key == digest},
        )

    def target(self, file: RemoteFile) -> Path:
        return self.directory / file.path

    def run(self, *files: RemoteFile, interrupt_at: int | None = None) -> list[int]:
        """Download the files. Return the reported numbers of bytes, which never decrease."""
        reported: list[int] = []

        def on_progress(progress: Progress) -> None:
            reported.append(progress.completed_bytes)
            if interrupt_at is not None and progress.completed_bytes >= interrupt_at:
                raise KeyboardInterrupt

        try:
            with httpx.Client(headers=self.headers) as client:
                meter = DownloadMeter(files, on_progress)
                download_files(client, {self.target(file): file for file in files}, meter)
        except KeyboardInterrupt:
            assert interrupt_at is not None
        else:
            assert interrupt_at is None
            for file in files:
                assert self.target(file).read_bytes() == self.server.files[f"/{file.path}"]
            assert reported[-1] == sum(file.size_bytes for file in files)
            assert self.unfinished() == []
        finally:
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("download-")]
            assert reported == sorted(reported)
        return reported

    def unfinished(self) -> list[str]:
        """Return the names of the files that belong to an unfinished download."""
        return sorted(path.name for path in self.directory.rglob("*.partial*"))

    @property
    def ranges(self) -> Sequence[str | None]:
        """Ranges that were asked for, in the order of the requests."""
        return [request.range for request in self.server.requests]

    @property
    def statuses(self) -> Sequence[int]:
        return [request.status for request in self.server.requests]
