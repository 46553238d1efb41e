"""A puller that reports the progress that a test chooses, and then returns a model or fails."""

import threading
from collections.abc import Sequence

from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.pull import ModelPuller
from pagoda.models.sources.progress import FileProgress, OnProgress, Progress, Stage
from pagoda.models.store import ModelStore


class SteppedPuller(ModelPuller):
    """A puller whose thread waits until the test lets it continue."""

    def __init__(self, store: ModelStore, editor: ModelEditor) -> None:
        super().__init__(store, editor)
        self._model_store = store
        self.steps: Sequence[Progress] = ()
        self.failure: Exception | None = None
        self.result = "tiny"
        """Name of the model that a pull returns."""
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
        return self._model_store.get(self.result)


def downloading(completed: int, name: str = "model.gguf", *, digest: str = "ab" * 32, total: int = 100) -> Progress:
    """Return the progress of one file of a download."""
    file = FileProgress(name=name, digest=digest, completed_bytes=completed, total_bytes=total)
    return Progress(stage=Stage.DOWNLOADING, completed_bytes=completed, total_bytes=total, file=file)


VERIFYING = Progress(stage=Stage.VERIFYING, completed_bytes=100, total_bytes=100)
