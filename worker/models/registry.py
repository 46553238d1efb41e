"""From a model on disk to one that computes: architecture names to families, and loading."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pagoda.models.model import Model, ModelFormat
from worker.kernels.interface import Kernels
from worker.models import gemma, llama, phi3, qwen2, qwen3
from worker.models.decoder import DecoderModel, MakeLayer
from worker.weights.checkpoint import Checkpoint, Weights, WeightsError
from worker.weights.gguf import GGUFCheckpoint
from worker.weights.safetensors import SafetensorsCheckpoint

FAMILIES: Mapping[str, MakeLayer] = {
    "llama": llama.make_layer,
    "qwen2": qwen2.make_layer,
    "qwen3": qwen3.make_layer,
    "gemma2": gemma.make_layer,
    "gemma3": gemma.make_layer,
    "phi3": phi3.make_layer,
}
"""By `ModelConfig.architecture`."""


class UnsupportedArchitectureError(ValueError):
    """No family of this name; the message names those there are."""


def load_model(model: Model, kernels: Kernels) -> DecoderModel:
    architecture = model.config.architecture
    make_layer = FAMILIES.get(architecture)
    if make_layer is None:
        raise UnsupportedArchitectureError(
            f"{model.name}: unsupported architecture {architecture!r}; known: {', '.join(FAMILIES)}"
        )
    with open_checkpoint(model) as checkpoint:
        weights = Weights(checkpoint, kernels.device)
        try:
            decoder = DecoderModel(model.config, kernels, weights, make_layer)
            weights.finish()
        except WeightsError as error:
            raise WeightsError(f"{model.path}: {error}") from error
    return decoder


@contextmanager
def open_checkpoint(model: Model) -> Iterator[Checkpoint]:
    """Open the model's checkpoint, by its format, and close it in the end."""
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
