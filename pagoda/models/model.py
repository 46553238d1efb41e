"""A model on disk as every tier sees it: where its files are, what it is, and the numbers that describe it.

The worker reads the weights, the gateway builds tokenizer and template, from these files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

Activation = Literal["silu", "gelu_tanh"]


class ModelFormat(StrEnum):
    GGUF = "gguf"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Llama 3's frequency scaling (`rope_type` "llama3"), as transformers has it, or "linear" with `factor` alone."""

    rope_type: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The hyperparameters of a decoder, by the same names for each format."""

    architecture: str
    """The family, in GGUF's spelling: "llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3" (Mistral is "llama")."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_position: int
    """The longest sequence the model was made for, in tokens."""
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    """Of `rope_theta`: layers that rotate by `rope_theta_local` are never scaled."""
    tie_word_embeddings: bool

    # What only some families have; the defaults are a plain llama.
    activation: Activation = "silu"
    """Of the MLP's gate."""
    qk_norm: bool = False
    """An RMS norm over each head of the queries and keys, before they are rotated."""
    query_scale: float | None = None
    """What attention scores are multiplied by; None: 1 / sqrt(head_size)."""
    rotary_size: int | None = None
    """How many of a head's elements are rotated, the first ones; None: all."""
    rope_theta_local: float | None = None
    """The base for the layers with a sliding window; None: they use `rope_theta` as all others."""
    sliding_window: int | None = None
    """How many tokens a layer with a window sees, the newest included."""
    layer_uses_sliding_window: tuple[bool, ...] = ()
    """One per layer where there is a window, and otherwise empty."""
    attention_logit_cap: float | None = None
    """Attention scores s become cap * tanh(s / cap), after scaling and before masking."""
    final_logit_cap: float | None = None
    """Likewise for the logits."""
    embedding_scale: float = 1.0
    """What a token's embedding is multiplied by on its way in; not where the embedding is the output matrix too."""
    norm_weight_offset: float = 0.0
    """What is added to each norm's weight: 1 for Gemma checkpoints of Hugging Face, where GGUF has added it already."""

    def window_of(self, layer: int) -> int | None:
        """How far back a layer sees, in tokens; None: all the way."""
        return self.sliding_window if self.layer_uses_sliding_window and self.layer_uses_sliding_window[layer] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What a model's own files recommend for sampling.

    `parameters` are under the names of Ollama's options, and may hold anything that the file's writer left there.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unsupported: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the file asks for and nothing here does, under the file's own names."""


NOTHING_RECOMMENDED = Recommendation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str
    """As clients ask for it: "smollm2:135m", or the file's or directory's stem for a local path."""
    path: Path
    """The GGUF file, or the directory of a safetensors checkpoint."""
    format: ModelFormat
    digest: str
    """sha256, hexadecimal, over the model's files."""
    size_bytes: int
    config: ModelConfig
    eos_token_ids: tuple[int, ...]
    """All tokens that end a generation."""
    quantization: str
    """What the weights are stored as, in Ollama's spelling: "Q4_1", "F16", "BF16"."""
    num_parameters: int
    recommended: Recommendation = NOTHING_RECOMMENDED
    """What its files say about sampling."""
