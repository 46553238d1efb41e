"""A model on disk: the paths of its files, its hyperparameters, and other facts about it.

The worker reads the weights from these files; the gateway builds the tokenizer and the chat template.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

Activation = Literal["silu", "gelu_tanh"]


class ModelFormat(StrEnum):
    """File format of a model."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """A scaling of the rotary frequencies, as in transformers. Each type uses some of the fields."""

    rope_type: str
    """"linear", "llama3", "yarn", "longrope" or "dynamic"."""
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    """Longest sequence in the training before the context was extended."""
    attention_factor: float = 1.0
    """Factor of cosines and sines, which multiplies the attention scores by its square."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """True if YaRN rounds the ends of its range of frequencies to whole pairs."""
    short_factors: tuple[float, ...] = ()
    """Longrope's divisor of each frequency, if the served length is at most `original_max_position`."""
    long_factors: tuple[float, ...] = ()
    """Longrope's divisor of each frequency for longer served lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts in the place of a layer's MLP: a router chooses the experts that compute for a token."""

    num_experts: int
    num_used: int
    """Number of experts that compute for a token: those with the largest scores."""
    intermediate_size: int
    """Intermediate size of each expert."""
    renormalizes: bool
    """True if the weights of a token's experts, from the softmax of all scores, are divided by their sum."""
    shared_size: int = 0
    """Intermediate size of an MLP that computes for all tokens besides the experts. 0 if there is none."""
    gates_shared: bool = False
    """True if the result of that MLP is multiplied by a gate, the sigmoid of a product with the input."""
    layer_has_experts: tuple[bool, ...] = ()
    """One entry per layer if some layers have an ordinary MLP, else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The hyperparameters of a decoder, with the same names for all file formats."""

    architecture: str
    """Family, in GGUF's spelling, such as "llama" (Mistral, too), "qwen3" or "gemma3": a key of families/tables.py."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_position: int
    """Longest sequence that the model supports, in tokens."""
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    """Scaling of `rope_theta`. Layers that rotate by `rope_theta_local` are never scaled."""
    tie_word_embeddings: bool

    # Fields of some families only. The defaults are those of a plain llama.
    activation: Activation = "silu"
    """Activation function of the MLP's gate."""
    qk_norm: bool = False
    """True if an RMS norm is applied to each head of the queries and keys before they are rotated."""
    qk_norm_spans_heads: bool = False
    """True if that norm is over all heads of the queries together, and over all of the keys, not over each head."""
    qk_norm_after_rotation: bool = False
    """True if that norm is applied to rotated queries and keys, not before they are rotated."""
    query_scale: float | None = None
    """Factor of the attention scores. None for 1 / sqrt(head_size)."""
    rotary_size: int | None = None
    """Number of a head's first elements that are rotated. None for all."""
    layer_is_rotated: tuple[bool, ...] = ()
    """One entry per layer if some layers do not rotate their queries and keys, else empty."""
    rope_theta_local: float | None = None
    """Rotary base of the layers with a sliding window. None if they use `rope_theta`, as all other layers."""
    sliding_window: int | None = None
    """Number of tokens that a layer with a window sees, including the newest."""
    layer_uses_sliding_window: tuple[bool, ...] = ()
    """One entry per layer if there is a window, else empty."""
    attention_logit_cap: float | None = None
    """Cap of the attention scores: s becomes cap * tanh(s / cap), after scaling and before masking."""
    final_logit_cap: float | None = None
    """Cap of the logits, with the same formula."""
    embedding_scale: float = 1.0
    """Factor of a token's embedding as input. It does not apply to an output matrix that shares the embedding's weights."""
    norm_weight_offset: float = 0.0
    """Value added to each norm's weight: 1 for Gemma checkpoints of Hugging Face; in GGUF files it is already added."""
    residual_scale: float = 1.0
    """Factor of the results of attention and of the MLP before they are added to the hidden states."""
    logit_scale: float = 1.0
    """Factor of the logits, before they are capped."""
    has_joined_qkv: bool = False
    """True if the checkpoint has queries, keys and values as one matrix."""
    has_joined_gate_up: bool = False
    """True if the checkpoint has gate and up as one matrix, gate first."""
    query_growth: float = 0.0
    """Growth of queries with their position, as in Llama 4: factor 1 + query_growth * ln(1 + position // query_growth_length)."""
    query_growth_length: int = 0
    """Number of positions after which the factor of the queries grows."""
    is_text_part: bool = False
    """True for the text part of a multimodal checkpoint. Tensors of other parts are not read."""

    experts: ExpertsConfig | None = None
    """The mixture of experts. None if each layer has an ordinary MLP."""

    def experts_of(self, layer: int) -> ExpertsConfig | None:
        """Return a layer's mixture of experts, or None if it has an ordinary MLP."""
        if self.experts is None or (self.experts.layer_has_experts and not self.experts.layer_has_experts[layer]):
            return None
        return self.experts

    def rotates(self, layer: int) -> bool:
        """Return True if a layer rotates its queries and keys."""
        return not self.layer_is_rotated or self.layer_is_rotated[layer]

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens a layer sees, or None if it sees all."""
        return self.sliding_window if self.layer_uses_sliding_window and self.layer_uses_sliding_window[layer] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Sampling values that a model's own files recommend.

    `parameters` have the names of Ollama's options. Their values are not validated.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unsupported: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Recommended settings that Pagoda does not support, under the file's own names."""


NOTHING_RECOMMENDED = Recommendation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model on disk."""

    name: str
    """Name in requests, such as "smollm2:135m", or the stem of the file or directory for a local path."""
    path: Path
    """GGUF file (the first, if the model is in parts), or directory of a safetensors checkpoint."""
    format: ModelFormat
    digest: str
    """SHA-256 of the model's files, in hexadecimal."""
    size_bytes: int
    config: ModelConfig
    eos_token_ids: tuple[int, ...]
    """All tokens that end a generation."""
    quantization: str
    """Storage type of the weights, in Ollama's spelling: "Q4_1", "F16", "BF16"."""
    num_parameters: int
    recommended: Recommendation = NOTHING_RECOMMENDED
    """Sampling values that the model's files recommend."""
    manifest: Path | None = None
    """Manifest that names the model and has its settings. None for a model that was named by its path."""
    in_ollama_store: bool = False
    """True for a model of an Ollama installation. Its files and its manifest are never changed."""
