"""Qwen 2 and 2.5: as Llama, with biases on queries, keys and values."""

from worker.layers.attention import Attention, qkv_sizes
from worker.layers.mlp import MLP
from worker.layers.residual import PreNormLayer
from worker.layers.source import LayerSource


def make_layer(source: LayerSource) -> PreNormLayer:
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    qkv = source.take_linear(qkv_sizes(source.config), hidden, needs_bias=True)
    gate_up = source.take_linear({"gate": inner, "up": inner}, hidden)
    return PreNormLayer(source, Attention(source, qkv), MLP(source, gate_up))
