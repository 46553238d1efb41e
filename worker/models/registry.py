"""From a model on disk to one that computes: architecture names to families, and loading."""

from collections.abc import Callable

from pagoda.models.model import Model, ModelConfig
from worker.kernels.interface import Kernels
from worker.models.decoder import DecoderModel
from worker.models.llama import LlamaModel
from worker.weights.checkpoint import Weights, WeightsError
from worker.weights.open import open_checkpoint

FAMILIES: dict[str, Callable[[ModelConfig, Kernels, Weights], DecoderModel]] = {
    "llama": LlamaModel,
}
"""By `ModelConfig.architecture`."""


class UnsupportedArchitectureError(ValueError):
    """No family of this name; the message names those there are."""


def load_model(model: Model, kernels: Kernels) -> DecoderModel:
    architecture = model.config.architecture
    family = FAMILIES.get(architecture)
    if family is None:
        raise UnsupportedArchitectureError(
            f"{model.name}: unsupported architecture {architecture!r}; known: {', '.join(FAMILIES)}"
        )
    with open_checkpoint(model) as checkpoint:
        weights = Weights(checkpoint)
        try:
            decoder = family(model.config, kernels, weights)
            weights.finish()
        except WeightsError as error:
            raise WeightsError(f"{model.path}: {error}") from error
    return decoder
