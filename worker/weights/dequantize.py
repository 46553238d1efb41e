"""GGML's tensor formats to float32, bit for bit as ggml and the gguf package compute it.

The blocks' bytes are the business of ggml_blocks.py. To add a format, write its function there and name it in DECODERS.
"""

from collections.abc import Callable

import torch

from pagoda.models.formats.ggml_type import GGMLType
from worker.weights import ggml_blocks
from worker.weights.four_bit import AnyWeight, FourBitWeight, as_float32

VALUES_PER_PASS = 1 << 20
"""What is unpacked at once: little enough to stay in a core's cache between the operations, and to cost no memory."""


class UnsupportedTypeError(ValueError):
    """A tensor is stored in a format that cannot be read; the message names those that can."""


def dequantize(data: memoryview, ggml_type: GGMLType) -> torch.Tensor:
    """The tensor's bytes as flat float32, in memory of its own."""
    decode = DECODERS.get(ggml_type)
    if decode is None:
        known = ", ".join(kind.name for kind in DECODERS)
        raise UnsupportedTypeError(f"cannot read {ggml_type.name} tensors; known: {known}")
    blocks = torch.frombuffer(data, dtype=torch.uint8).view(-1, ggml_type.block_bytes)
    values = torch.empty(blocks.shape[0], ggml_type.block_size)
    blocks_per_pass = VALUES_PER_PASS // ggml_type.block_size
    for some, their_blocks in zip(
        torch.split(values, blocks_per_pass), torch.split(blocks, blocks_per_pass), strict=True
    ):
        some.copy_(as_float32(decode(their_blocks)))
    return values.flatten()


def is_four_bit(ggml_type: GGMLType) -> bool:
    """Whether it is what a FourBitWeight is."""
    return ggml_type in FOUR_BIT


def read_four_bit(data: memoryview, ggml_type: GGMLType, num_out: int) -> FourBitWeight:
    """The tensor's bytes, in memory of its own, as `num_out` rows."""
    blocks = torch.frombuffer(data, dtype=torch.uint8).view(-1, ggml_type.block_bytes)
    return FOUR_BIT[ggml_type](blocks).view(num_out)


def _stored_as(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda blocks: blocks.view(dtype)


FOUR_BIT: dict[GGMLType, Callable[[torch.Tensor], FourBitWeight]] = {
    GGMLType.Q4_0: ggml_blocks.q4_0_with_minimum,
    GGMLType.Q4_1: ggml_blocks.q4_1,
    GGMLType.Q4_K: ggml_blocks.q4_k,
}

DECODERS: dict[GGMLType, Callable[[torch.Tensor], AnyWeight]] = {
    **FOUR_BIT,
    GGMLType.F32: _stored_as(torch.float32),
    GGMLType.F16: _stored_as(torch.float16),
    GGMLType.BF16: _stored_as(torch.bfloat16),
    GGMLType.Q8_0: ggml_blocks.q8_0,
    GGMLType.Q4_0: ggml_blocks.q4_0,
    GGMLType.Q5_0: ggml_blocks.q5_0,
    GGMLType.Q5_1: ggml_blocks.q5_1,
    GGMLType.Q2_K: ggml_blocks.q2_k,
    GGMLType.Q3_K: ggml_blocks.q3_k,
    GGMLType.Q5_K: ggml_blocks.q5_k,
    GGMLType.Q6_K: ggml_blocks.q6_k,
    GGMLType.IQ4_NL: ggml_blocks.iq4_nl,
    GGMLType.IQ4_XS: ggml_blocks.iq4_xs,
}
"""Blocks [n, bytes] to values [n, values per block], in any type that float32 holds."""
