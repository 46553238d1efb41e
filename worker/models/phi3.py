"""Phi-3: as Llama, but its checkpoints hold queries, keys and values as one matrix, and gate and up as another.

Its sliding window, and how much of a head is rotated, are in ModelConfig.
"""

from worker.layers.attention import Attention, qkv_sizes
from worker.layers.mlp import MLP
from worker.layers.residual import PreNormLayer
from worker.layers.source import LayerSource


def make_layer(source: LayerSource) -> PreNormLayer:
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    qkv = source.take_linear({"qkv": sum(qkv_sizes(source.config).values())}, hidden)
    gate_up = source.take_linear({"gate_up": 2 * inner}, hidden)
    return PreNormLayer(source, Attention(source, qkv), MLP(source, gate_up))
