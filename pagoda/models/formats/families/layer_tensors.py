"""The description of the tensors of a family's layers: which there are, and how checkpoints name and order them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pagoda.models.model import ModelFormat

PRE_NORMS = ("attention_norm", "mlp_norm")
POST_NORMS = ("after_attention_norm", "after_mlp_norm")
BOTH_FORMATS = frozenset(ModelFormat)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensors:
    """The tensors of a layer. The defaults are those of a plain llama.

    Names are without the layer's prefix and without ".weight" or ".bias".
    """

    norms: tuple[str, ...] = PRE_NORMS
    """Norms of hidden states, by Pagoda's names: before attention, after it, before the MLP, after it."""
    biases: frozenset[str] = frozenset()
    """Linear layers that must have a bias. Others may have one in GGUF files."""
    interleaved: frozenset[ModelFormat] = frozenset()
    """Formats in which a head's rotated pairs are neighbouring rows of the queries and keys. Else they are half a head apart."""
    gguf: Mapping[str, str] = field(default_factory=dict)
    """Pagoda's names by those of GGUF files, only where they differ from llama's."""
    safetensors: Mapping[str, str] = field(default_factory=dict)
    """Pagoda's names by those of Hugging Face, only where they differ from llama's."""


def full_names(prefix: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield a checkpoint's name and Pagoda's for each weight and bias of a layer."""
    for spelled, ours in names.items():
        for suffix in ("weight", "bias"):
            yield f"{prefix}.{{i}}.{spelled}.{suffix}", f"layers.{{i}}.{ours}.{suffix}"
