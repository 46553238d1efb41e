"""A model on disk as every tier sees it: where its files are, what it is, and the numbers that describe it.

Knows nothing about tensors or text: the worker reads the weights, the gateway builds tokenizer and template, from these
files.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


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
    """The family, in GGUF's spelling: "llama"."""
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
    tie_word_embeddings: bool


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
