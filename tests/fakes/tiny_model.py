"""A tiny random Llama in a GGUF file, which store, tokenizer, template and worker load in milliseconds.

Its vocabulary is the 256 bytes (token id = byte, so a text has as many tokens as UTF-8 bytes) and three control tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np

from pagoda.models.formats.gguf_rope import llama3_factors
from pagoda.models.model import RopeScaling
from pagoda.text.byte_alphabet import CHARACTER_OF_BYTE

END_OF_TEXT, IM_START, IM_END = 256, 257, 258
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ADD: Mapping[type, Callable[..., None]] = MappingProxyType(
    {
        int: gguf.GGUFWriter.add_int32,
        float: gguf.GGUFWriter.add_float32,
        str: gguf.GGUFWriter.add_string,
        list: gguf.GGUFWriter.add_array,
    }
)


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    num_layers: int = 2,
    hidden_size: int = 64,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    intermediate_size: int = 128,
    num_experts: int = 0,
    max_position: int = 512,
    merges: Sequence[str] = (),
    more_control_tokens: Sequence[str] = (),
    weight_type: str = "F32",
    tie_word_embeddings: bool = False,
    chat_template: str | None = CHAT_TEMPLATE,
    architecture: str = "llama",
    sampling: Mapping[str, float | str | list[str]] | None = None,
    rope_factor: float | None = None,
    tensors_per_part: int = 0,
    first_part_is_empty: bool = False,
) -> Path:
    """Write the file and return its path. `weight_type` is GGML's format of the matrices.

    Each merge ("h e") adds a token after the control tokens, the first of which are CONTROL_TOKENS.

    With `num_experts` the model is a mixture of so many experts, of which two compute for a token, as Mixtral's.

    `sampling` is written as `general.sampling.*`: whole numbers as int32, other numbers as float32.

    With `rope_factor` the last tensor has the factors of Llama 3's rope scaling.

    With `tensors_per_part` the model is written in parts beside `path`, as llama.cpp's gguf-split does, and the path of the first
    part is returned; with `first_part_is_empty` that one has no tensors.
    """
    writer = gguf.GGUFWriter(
        path, architecture, split_max_tensors=tensors_per_part, small_first_shard=first_part_is_empty
    )
    writer.add_block_count(num_layers)
    writer.add_context_length(max_position)
    writer.add_embedding_length(hidden_size)
    writer.add_feed_forward_length(intermediate_size)
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden_size // num_heads)
    if num_experts:
        writer.add_expert_count(num_experts)
        writer.add_expert_used_count(2)
    vocab_size = _add_vocabulary(writer, merges, (*CONTROL_TOKENS, *more_control_tokens))
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, value in (sampling or {}).items():
        _ADD[type(value)](writer, f"general.sampling.{name}", value)

    kv_size = hidden_size // num_heads * num_kv_heads
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (vocab_size, hidden_size)}
    stack, suffix = ((num_experts,), "_exps") if num_experts else ((), "")
    if not tie_word_embeddings:
        shapes["output"] = (vocab_size, hidden_size)
    for layer in range(num_layers):
        shapes |= {
            f"blk.{layer}.attn_q": (hidden_size, hidden_size),
            f"blk.{layer}.attn_k": (kv_size, hidden_size),
            f"blk.{layer}.attn_v": (kv_size, hidden_size),
            f"blk.{layer}.attn_output": (hidden_size, hidden_size),
            f"blk.{layer}.ffn_gate{suffix}": (*stack, intermediate_size, hidden_size),
            f"blk.{layer}.ffn_up{suffix}": (*stack, intermediate_size, hidden_size),
            f"blk.{layer}.ffn_down{suffix}": (*stack, hidden_size, intermediate_size),
        }
        if num_experts:
            shapes |= {f"blk.{layer}.ffn_gate_inp": (num_experts, hidden_size)}
    _add_matrices(writer, shapes, weight_type, np.random.default_rng(seed))
    norms = [f"blk.{layer}.{norm}" for layer in range(num_layers) for norm in ("attn_norm", "ffn_norm")]
    for name in (*norms, "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(hidden_size, dtype=np.float32))

    if rope_factor is not None:
        scaling = RopeScaling(rope_type="llama3", factor=rope_factor)
        factors = list(llama3_factors(scaling, 10000.0, hidden_size // num_heads))
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    first: Path = writer.format_shard_names(path)[0]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return first


def _add_vocabulary(writer: gguf.GGUFWriter, merges: Sequence[str], control_tokens: Sequence[str]) -> int:
    merged = [merge.replace(" ", "") for merge in merges]
    tokens = [*CHARACTER_OF_BYTE, *control_tokens, *merged]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([normal] * 256 + [control] * len(control_tokens) + [normal] * len(merged))
    if merges:  # GGUF has no empty arrays
        writer.add_token_merges(merges)
    writer.add_bos_token_id(IM_START)
    writer.add_eos_token_id(IM_END)
    writer.add_add_bos_token(False)
    return len(tokens)


def _add_matrices(
    writer: gguf.GGUFWriter, shapes: Mapping[str, tuple[int, ...]], weight_type: str, generator: np.random.Generator
) -> None:
    """Add random matrices whose scale keeps the size of activations from layer to layer, so that logits vary."""
    storage = gguf.GGMLQuantizationType[weight_type]
    for name, shape in shapes.items():
        matrix = generator.standard_normal(shape, dtype=np.float32) / np.sqrt(np.float32(shape[-1]))
        writer.add_tensor(f"{name}.weight", gguf.quantize(matrix, storage), raw_dtype=storage)
