"""Qwen 3: as Llama, with a norm over each head of the queries and keys, and heads of a size of their own.

Both are in ModelConfig (`qk_norm`, `head_size`), so the layer is put together as Llama's.
"""

from worker.layers.attention import Attention, qkv_sizes
from worker.layers.mlp import MLP
from worker.layers.residual import PreNormLayer
from worker.layers.source import LayerSource


def make_layer(source: LayerSource) -> PreNormLayer:
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    qkv = source.take_linear(qkv_sizes(source.config), hidden)
    gate_up = source.take_linear({"gate": inner, "up": inner}, hidden)
    return PreNormLayer(source, Attention(source, qkv), MLP(source, gate_up))
