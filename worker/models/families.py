"""The model families: how each puts a layer together, and loading a model as the family that its configuration names.

Most of what differs between families is in ModelConfig and is read where it acts. Only what is taken from the checkpoint in another
way, or put together in another way, is a function of its own here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
    """No family of this name; the message names those there are."""


def pre_norm_layer(source: LayerSource) -> PreNormLayer:
    """Llama's: a norm before attention and one before the MLP."""
    return PreNormLayer(source, *_attention_and_mlp(source))


def qkv_bias_layer(source: LayerSource) -> PreNormLayer:
    """As Llama's, with biases on queries, keys and values."""
    return PreNormLayer(source, *_attention_and_mlp(source, qkv_bias=True))


def joined_matrices_layer(source: LayerSource) -> PreNormLayer:
    """As Llama's, from checkpoints that hold queries, keys and values as one matrix, and gate and up as another."""
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    qkv = source.take_linear({"qkv": sum(qkv_sizes(source.config).values())}, hidden)
    gate_up = source.take_linear({"gate_up": 2 * inner}, hidden)
    return PreNormLayer(source, Attention(source, qkv), MLP(source, gate_up))


def sandwich_norm_layer(source: LayerSource) -> SandwichNormLayer:
    """Gemma's: a norm before and after attention and MLP."""
    return SandwichNormLayer(source, *_attention_and_mlp(source))


def _attention_and_mlp(source: LayerSource, *, qkv_bias: bool = False) -> tuple[Attention, MLP]:
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    qkv = source.take_linear(qkv_sizes(source.config), hidden, needs_bias=qkv_bias)
    gate_up = source.take_linear({"gate": inner, "up": inner}, hidden)
    return Attention(source, qkv), MLP(source, gate_up)


FAMILIES: Mapping[str, MakeLayer] = {
    # Llama 2 and 3, SmolLM, Mistral, and whatever else shares their architecture. In ModelConfig: the scaling of the rotary
    # frequencies, and Mistral's sliding window.
    "llama": pre_norm_layer,
    # Qwen 2 and 2.5.
    "qwen2": qkv_bias_layer,
    # In ModelConfig: a norm over each head of the queries and keys, and heads of a size of their own.
    "qwen3": pre_norm_layer,
    # In ModelConfig, of both: the embedding's scale, GELU, the norms' offset, sliding windows in some layers. Gemma 2 caps the
    # scores of attention and the logits; Gemma 3 has head norms instead, and other rotary frequencies where the window is.
    "gemma2": sandwich_norm_layer,
    "gemma3": sandwich_norm_layer,
    # In ModelConfig: the sliding window, and how much of a head is rotated.
    "phi3": joined_matrices_layer,
}
"""How a layer is put together, by `ModelConfig.architecture`."""


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
