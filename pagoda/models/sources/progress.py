"""Progress of a download, for one file and for all files of a model together."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pagoda.models.sources.remote import RemoteFile, RemoteModel


class Stage(StrEnum):
    """A stage of a pull, with Ollama's words for its status where Ollama has the stage."""

    WAITING = "waiting for another process that pulls it"
    RESOLVING = "pulling manifest"
    CHECKING = "checking"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying sha256"
    DONE = "success"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProgress:
    """The progress of one file of a model."""

    name: str
    digest: str
    """SHA-256 in hexadecimal, or another text that identifies the file, if its source names no SHA-256."""
    completed_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of all files together. Within a stage `completed_bytes` never decreases, and it ends at `total_bytes`."""

    stage: Stage
    completed_bytes: int
    total_bytes: int
    file: FileProgress | None = None
    """The file that has advanced, while files are downloaded."""
    remote: RemoteModel | None = None
    """The model at its source, in the stage CHECKING."""


OnProgress = Callable[[Progress], None]
"""Function that receives the progress, one call at a time. If it raises, the download ends and keeps what it has."""


class DownloadMeter:
    """The progress of several files that are downloaded at the same time, in threads.

    After a restart the progress of a file stays constant until the old position is passed.
    """

    def __init__(self, files: Sequence[RemoteFile], on_progress: OnProgress) -> None:
        self._files = {file.path: file for file in files}
        self._completed = dict.fromkeys(self._files, 0)
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._total = sum(file.size_bytes for file in files)

    def report(self, path: str, completed_bytes: int) -> None:
        """Note how many bytes of a file are here, and report it. Raises what the receiver raises."""
        file = self._files[path]
        with self._lock:
            self._completed[path] = max(self._completed[path], min(completed_bytes, file.size_bytes))
            progress = FileProgress(
                name=path,
                digest=file.digest or path,
                completed_bytes=self._completed[path],
                total_bytes=file.size_bytes,
            )
            self._on_progress(
                Progress(
                    stage=Stage.DOWNLOADING,
                    completed_bytes=sum(self._completed.values()),
                    total_bytes=self._total,
                    file=progress,
                )
            )

    def report_complete(self) -> None:
        """Report each file that has not been reported as complete, such as one that was on this machine before."""
        for path, file in self._files.items():
            if self._completed[path] < file.size_bytes:
                self.report(path, file.size_bytes)

    def report_stage(self, stage: Stage) -> None:
        with self._lock:
            self._on_progress(Progress(stage=stage, completed_bytes=self._total, total_bytes=self._total))
