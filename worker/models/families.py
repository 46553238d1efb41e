"""The model families: how each one builds a layer, and loading a model as the family that its configuration names.

Most differences between families are fields of ModelConfig, read where they act. A family needs a function here only if it
takes other tensors from the checkpoint or combines them in another way.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from pagoda.models.model import Model, ModelFormat
from worker.kernels.interface import Kernels
from worker.layers.attention import Attention, qkv_sizes
from worker.layers.mlp import MLP
from worker.layers.residual import PreNormLayer, SandwichNormLayer
from worker.layers.source import LayerSource
from worker.models.decoder import DecoderModel, MakeLayer
from worker.weights.checkpoint import Checkpoint, Weights, WeightsError
from worker.weights.gguf import GGUFCheckpoint
from worker.weights.safetensors import SafetensorsCheckpoint


class UnsupportedArchitectureError(ValueError):
    """The model's architecture is not supported; the message names those that are."""


def pre_norm_layer(source: LayerSource) -> PreNormLayer:
    """Build Llama's layer: a norm before attention and one before the MLP."""
    return PreNormLayer(source, *_attention_and_mlp(source))


def qkv_bias_layer(source: LayerSource) -> PreNormLayer:
    """Build Llama's layer with biases on queries, keys and values."""
    return PreNormLayer(source, *_attention_and_mlp(source, qkv_bias=True))


def joined_matrices_layer(source: LayerSource) -> PreNormLayer:
    """Build Llama's layer from a checkpoint that holds queries, keys and values as one matrix, and gate and up as another."""
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    qkv = source.take_linear({"qkv": sum(qkv_sizes(source.config).values())}, hidden)
    gate_up = source.take_linear({"gate_up": 2 * inner}, hidden)
    return PreNormLayer(source, Attention(source, qkv), MLP(source, gate_up))


def sandwich_norm_layer(source: LayerSource) -> SandwichNormLayer:
    """Build Gemma's layer: a norm before and after attention, and before and after the MLP."""
    return SandwichNormLayer(source, *_attention_and_mlp(source))


def _attention_and_mlp(source: LayerSource, *, qkv_bias: bool = False) -> tuple[Attention, MLP]:
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    qkv = source.take_linear(qkv_sizes(source.config), hidden, needs_bias=qkv_bias)
    gate_up = source.take_linear({"gate": inner, "up": inner}, hidden)
    return Attention(source, qkv), MLP(source, gate_up)


FAMILIES: Mapping[str, MakeLayer] = {
    # Llama 2 and 3, SmolLM, Mistral, and other models of their architecture. In ModelConfig: the scaling of the rotary
    # frequencies, and Mistral's sliding window.
    "llama": pre_norm_layer,
    # Qwen 2 and 2.5.
    "qwen2": qkv_bias_layer,
    # In ModelConfig: a norm over each head of the queries and keys, and a head size of its own.
    "qwen3": pre_norm_layer,
    # In ModelConfig of both: the embedding's scale, GELU, the norms' offset, sliding windows in some layers. Gemma 2 caps the
    # scores of attention and the logits; Gemma 3 has head norms instead, and other rotary frequencies in layers with a window.
    "gemma2": sandwich_norm_layer,
    "gemma3": sandwich_norm_layer,
    # In ModelConfig: the sliding window, and the number of rotated elements of a head.
    "phi3": joined_matrices_layer,
}
"""The function that builds a layer, by `ModelConfig.architecture`."""


def load_model(model: Model, kernels: Kernels, max_model_len: int | None = None) -> DecoderModel:
    """Load a model to serve sequences of at most `max_model_len` tokens, or as many as it supports."""
    config = replace(model.config, max_position=max_model_len or model.config.max_position)
    architecture = model.config.architecture
    make_layer = FAMILIES.get(architecture)
    if make_layer is None:
        raise UnsupportedArchitectureError(
            f"{model.name}: unsupported architecture {architecture!r}; supported: {', '.join(FAMILIES)}"
        )
    with open_checkpoint(model) as checkpoint:
        weights = Weights(checkpoint, kernels.device)
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
