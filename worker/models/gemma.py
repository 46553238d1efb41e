"""Gemma 2 and 3: a norm before and after attention and MLP.

What else they have is in ModelConfig: the embedding's scale, GELU, the norms' offset, sliding windows in some layers. Gemma 2
caps the scores of attention and the logits; Gemma 3 has head norms instead, and other rotary frequencies where the window is.
"""

from worker.layers.attention import Attention, qkv_sizes
from worker.layers.mlp import MLP
from worker.layers.residual import SandwichNormLayer
from worker.layers.source import LayerSource


def make_layer(source: LayerSource) -> SandwichNormLayer:
    hidden, inner = source.config.hidden_size, source.config.intermediate_size
    qkv = source.take_linear(qkv_sizes(source.config), hidden)
    gate_up = source.take_linear({"gate": inner, "up": inner}, hidden)
    return SandwichNormLayer(source, Attention(source, qkv), MLP(source, gate_up))
