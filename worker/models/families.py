"""The model families: how each one builds a layer, and loading a model as the family that its configuration names.

Most differences between families are fields of ModelConfig, read where they act, and the tensors of their layers (LayerTensors).
A family needs a function of its own only if its layer has other parts than attention and an MLP.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from pagoda.models.formats.families.tables import TENSORS
from pagoda.models.model import Model, ModelFormat
from worker.kernels.interface import Kernels
from worker.layers.attention import Attention, qkv_sizes
from worker.layers.experts import MixtureOfExperts
from worker.layers.mlp import MLP
from worker.layers.residual import FeedForward, ResidualLayer
from worker.layers.source import LayerSource
from worker.models.decoder import DecoderModel, MakeLayer
from worker.weights.checkpoint import Checkpoint, OnProgress, Weights, WeightsError
from worker.weights.gguf import GGUFCheckpoint
from worker.weights.safetensors import SafetensorsCheckpoint


class UnsupportedArchitectureError(ValueError):
    """The model's architecture is not supported; the message names those that are."""


def decoder_layer(source: LayerSource) -> ResidualLayer:
    """Build a layer of attention and an MLP or a mixture of experts from the tensors that its family has."""
    tensors = TENSORS[source.config.architecture]
    hidden, qkv = source.config.hidden_size, qkv_sizes(source.config)
    attention = source.take_linear(
        {"qkv": sum(qkv.values())} if source.config.has_joined_qkv else qkv,
        hidden,
        needs_bias=frozenset("qkv") <= tensors.biases,
    )
    return ResidualLayer(source, Attention(source, attention), _feed_forward(source), tensors.norms)


def _feed_forward(source: LayerSource) -> FeedForward:
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    experts = source.config.experts_of(source.index)
    if experts is not None:
        return MixtureOfExperts(source, experts)
    inputs = {"gate_up": 2 * inner} if source.config.has_joined_gate_up else {"gate": inner, "up": inner}
    return MLP(source, source.take_linear(inputs, hidden), source.take_linear({"down": hidden}, inner))


FAMILIES: Mapping[str, MakeLayer] = {
    "llama": decoder_layer,
    "smollm3": decoder_layer,
    "granite": decoder_layer,
    "seed_oss": decoder_layer,
    "ernie4_5": decoder_layer,
    "hunyuan-dense": decoder_layer,
    "mistral3": decoder_layer,
    "qwen2": decoder_layer,
    "qwen3": decoder_layer,
    "gemma": decoder_layer,
    "gemma2": decoder_layer,
    "gemma3": decoder_layer,
    "phi3": decoder_layer,
    "olmo2": decoder_layer,
    "exaone4": decoder_layer,
    "chatglm": decoder_layer,
    "glm4": decoder_layer,
    "qwen2moe": decoder_layer,
    "qwen3moe": decoder_layer,
    "olmoe": decoder_layer,
    "granitemoe": decoder_layer,
}
"""The function that builds a layer, by `ModelConfig.architecture`."""


def load_model(
    model: Model, kernels: Kernels, max_model_len: int | None = None, on_progress: OnProgress | None = None
) -> DecoderModel:
    """Load a model to serve sequences of at most `max_model_len` tokens, or as many as it supports."""
    config = replace(model.config, max_position=max_model_len or model.config.max_position)
    architecture = model.config.architecture
    make_layer = FAMILIES.get(architecture)
    if make_layer is None:
        raise UnsupportedArchitectureError(
            f"{model.name}: unsupported architecture {architecture!r}; supported: {', '.join(FAMILIES)}"
        )
    with open_checkpoint(model) as checkpoint:
        weights = Weights(checkpoint, kernels.device, on_progress)
        try:
            decoder = DecoderModel(config, kernels, weights, make_layer)
            weights.finish()
        except WeightsError as error:
            raise WeightsError(f"{model.path}: {error}") from error
    return decoder


@contextmanager
def open_checkpoint(model: Model) -> Iterator[Checkpoint]:
    """Open the model's checkpoint according to its format, and close it when the block ends."""
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
