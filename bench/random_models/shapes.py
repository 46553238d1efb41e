"""The shapes of public models: their sizes, their metadata, and their tensors in the order of llama.cpp's converter."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    """Sizes in row-major order: a linear is [out, in], the experts' linears are [experts, out, in]."""
    layer: int | None = None

    @property
    def is_matrix(self) -> bool:
        """True if the tensor is quantized; a router never is."""
        return len(self.shape) > 1 and not self.name.endswith("ffn_gate_inp.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The hyperparameters of a public model, as they are written into a GGUF file."""

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_position: int
    rope_theta: float
    rms_norm_eps: float = 1e-6
    is_tied: bool = True
    """True if the file has no output matrix, because the embedding serves as one."""
    qkv_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    llama3_factor: float | None = None
    """The factor of Llama 3's rotary scaling, from 8,192 positions; None if rotary frequencies are not scaled."""
    extra_metadata: Mapping[str, int] = field(default_factory=dict)
    """Further integers of the architecture, by key without the architecture's name."""

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor(name="token_embd.weight", shape=(self.vocab_size, self.hidden_size))
        for layer in range(self.num_layers):
            for name, shape in self._layer().items():
                yield Tensor(name=f"blk.{layer}.{name}", shape=shape, layer=layer)
        yield Tensor(name="output_norm.weight", shape=(self.hidden_size,))
        if self.llama3_factor is not None:
            yield Tensor(name="rope_freqs.weight", shape=(self.head_size // 2,))
        if not self.is_tied:
            yield Tensor(name="output.weight", shape=(self.vocab_size, self.hidden_size))

    def _layer(self) -> dict[str, tuple[int, ...]]:
        hidden, q, kv = self.hidden_size, self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (hidden,),
            "attn_q.weight": (q, hidden),
            "attn_k.weight": (kv, hidden),
            "attn_v.weight": (kv, hidden),
            "attn_output.weight": (hidden, q),
            "ffn_norm.weight": (hidden,),
        }
        if self.qkv_bias:
            shapes |= {"attn_q.bias": (q,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
        if self.qk_norm:
            shapes |= {"attn_q_norm.weight": (self.head_size,), "attn_k_norm.weight": (self.head_size,)}
        if self.sandwich_norms:
            shapes |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
        return shapes | self._mlp()

    def _mlp(self) -> dict[str, tuple[int, ...]]:
        hidden, inner, experts = self.hidden_size, self.intermediate_size, self.num_experts
        if not experts:
            return {
                "ffn_gate.weight": (inner, hidden),
                "ffn_up.weight": (inner, hidden),
                "ffn_down.weight": (hidden, inner),
            }
        return {
            "ffn_gate_inp.weight": (experts, hidden),
            "ffn_gate_exps.weight": (experts, self.expert_size, hidden),
            "ffn_up_exps.weight": (experts, self.expert_size, hidden),
            "ffn_down_exps.weight": (experts, hidden, self.expert_size),
        }

    def metadata(self) -> dict[str, int | float]:
        """Return the architecture's metadata, by key without the architecture's name."""
        numbers: dict[str, int | float] = {
            "block_count": self.num_layers,
            "context_length": self.max_position,
            "embedding_length": self.hidden_size,
            "feed_forward_length": self.intermediate_size,
            "attention.head_count": self.num_heads,
            "attention.head_count_kv": self.num_kv_heads,
            "attention.layer_norm_rms_epsilon": self.rms_norm_eps,
            "rope.freq_base": self.rope_theta,
        }
        if self.head_size * self.num_heads != self.hidden_size:
            numbers |= {"attention.key_length": self.head_size, "attention.value_length": self.head_size}
        if self.llama3_factor is not None:
            numbers |= {"rope.dimension_count": self.head_size}
        if self.num_experts:
            numbers |= {"expert_count": self.num_experts, "expert_used_count": self.experts_per_token}
            numbers |= {"expert_feed_forward_length": self.expert_size}
        return numbers | dict(self.extra_metadata)

    def llama3_factors(self) -> list[float]:
        """Return the numbers by which rotary frequencies are divided: 1 for high ones, the whole factor for low ones."""
        assert self.llama3_factor is not None
        low, high, original = 1.0, 4.0, 8192
        factors = []
        for i in range(self.head_size // 2):
            turns = original * self.rope_theta ** (-2 * i / self.head_size) / (2 * math.pi)
            high_share = min(1.0, max(0.0, (turns - low) / (high - low)))
            factors.append(1 / (high_share + (1 - high_share) / self.llama3_factor))
        return factors


SHAPES: Mapping[str, ModelShape] = {
    # As in the authors' own GGUF files, which hold an output although the embedding is tied.
    "qwen2.5-0.5b": ModelShape(
        architecture="qwen2",
        num_layers=24,
        hidden_size=896,
        intermediate_size=4864,
        num_heads=14,
        num_kv_heads=2,
        head_size=64,
        vocab_size=151936,
        max_position=32768,
        rope_theta=1e6,
        is_tied=False,
        qkv_bias=True,
    ),
    "qwen2.5-1.5b": ModelShape(
        architecture="qwen2",
        num_layers=28,
        hidden_size=1536,
        intermediate_size=8960,
        num_heads=12,
        num_kv_heads=2,
        head_size=128,
        vocab_size=151936,
        max_position=32768,
        rope_theta=1e6,
        is_tied=False,
        qkv_bias=True,
    ),
    "qwen2.5-7b": ModelShape(
        architecture="qwen2",
        num_layers=28,
        hidden_size=3584,
        intermediate_size=18944,
        num_heads=28,
        num_kv_heads=4,
        head_size=128,
        vocab_size=152064,
        max_position=32768,
        rope_theta=1e6,
        is_tied=False,
        qkv_bias=True,
    ),
    "llama-3.2-1b": ModelShape(
        architecture="llama",
        num_layers=16,
        hidden_size=2048,
        intermediate_size=8192,
        num_heads=32,
        num_kv_heads=8,
        head_size=64,
        vocab_size=128256,
        max_position=131072,
        rope_theta=5e5,
        rms_norm_eps=1e-5,
        llama3_factor=32.0,
    ),
    "gemma3-270m": ModelShape(
        architecture="gemma3",
        num_layers=18,
        hidden_size=640,
        intermediate_size=2048,
        num_heads=4,
        num_kv_heads=1,
        head_size=256,
        vocab_size=262144,
        max_position=32768,
        rope_theta=1e6,
        qk_norm=True,
        sandwich_norms=True,
        extra_metadata={"attention.sliding_window": 512},
    ),
    "qwen3-30b-a3b": ModelShape(
        architecture="qwen3moe",
        num_layers=48,
        hidden_size=2048,
        intermediate_size=6144,
        num_heads=32,
        num_kv_heads=4,
        head_size=128,
        vocab_size=151936,
        max_position=40960,
        rope_theta=1e6,
        is_tied=False,
        qk_norm=True,
        num_experts=128,
        experts_per_token=8,
        expert_size=768,
    ),
}
