"""Llama 2 and 3, SmolLM, Mistral, and whatever else shares their architecture.

What differs between them is in ModelConfig: the scaling of the rotary frequencies, and Mistral's sliding window.
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
