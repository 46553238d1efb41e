"""Opens a model's checkpoint, by its format."""

from collections.abc import Iterator
from contextlib import contextmanager

from pagoda.models.model import Model, ModelFormat
from worker.weights.checkpoint import Checkpoint
from worker.weights.gguf import GGUFCheckpoint
from worker.weights.safetensors import SafetensorsCheckpoint


@contextmanager
def open_checkpoint(model: Model) -> Iterator[Checkpoint]:
    checkpoint = _open(model)
    try:
        yield checkpoint
    finally:
        checkpoint.close()


def _open(model: Model) -> Checkpoint:
    match model.format:
        case ModelFormat.GGUF:
            return GGUFCheckpoint(model.path, model.config)
        case ModelFormat.SAFETENSORS:
            return SafetensorsCheckpoint(model.path, model.config)
