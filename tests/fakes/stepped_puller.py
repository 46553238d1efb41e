"""A puller that reports the progress that a test chooses, and then stores a model or fails."""

import threading
from collections.abc import Sequence
from pathlib import Path

from pagoda.models.blobs import BlobStore
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.pull import ModelPuller
from pagoda.models.sources.progress import FileProgress, OnProgress, Progress, Stage
from pagoda.models.store import ModelStore


class SteppedPuller(ModelPuller):
    """A puller whose thread waits until the test lets it continue. Each model has the content of `file`."""

    def __init__(self, home: Path, file: Path) -> None:
        self._model_store = ModelStore(home)
        self._model_editor = ModelEditor(self._model_store, BlobStore(home))
        super().__init__(self._model_store, self._model_editor)
        self.file = file
        self.steps: Sequence[Progress] = ()
        self.failure: Exception | None = None
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.calls: list[tuple[str, bool]] = []
        """Name and `insecure` of each pull."""

    def pull(self, name: str, on_progress: OnProgress, *, insecure: bool = False) -> Model:
        self.calls.append((name, insecure))
        self.begun.set()
        assert self.go_on.wait(200)
        for step in self.steps:
            on_progress(step)
        if self.failure is not None:
            raise self.failure
        if not self._model_editor.has(name):
            self._model_editor.create_from_files(name, {"f": self.file}, ModelSettings(), lambda status: None)
        return self._model_store.get(name)


def downloading(completed: int, name: str = "model.gguf", *, digest: str = "ab" * 32, total: int = 100) -> Progress:
    """Return the progress of one file of a download."""
    file = FileProgress(name=name, digest=digest, completed_bytes=completed, total_bytes=total)
    return Progress(stage=Stage.DOWNLOADING, completed_bytes=completed, total_bytes=total, file=file)


VERIFYING = Progress(stage=Stage.VERIFYING, completed_bytes=100, total_bytes=100)
