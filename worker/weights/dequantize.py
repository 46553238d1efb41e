"""GGML's block formats to float32, bit for bit as ggml and the gguf package compute it.

Knows the bytes of a block and nothing about files, names or shapes. A block is 32 weights: a float16 scale `d`, for Q4_1
a float16 minimum `m`, then the integers. Four-bit blocks hold weights 0 to 15 in the low nibbles and 16 to 31 in the high.
"""

from collections.abc import Callable

import torch

from pagoda.models.ggml_type import GGMLType

BLOCK = 32


class UnsupportedTypeError(ValueError):
    """A tensor is stored in a format that cannot be read; the message names those that can."""


def dequantize(data: memoryview, ggml_type: GGMLType) -> torch.Tensor:
    """The tensor's bytes as flat float32, in memory of its own."""
    decode = DECODERS.get(ggml_type)
    if decode is None:
        known = ", ".join(kind.name for kind in DECODERS)
        raise UnsupportedTypeError(f"cannot read {ggml_type.name} tensors; known: {known}")
    return decode(torch.frombuffer(data, dtype=torch.uint8))


def _f32(bytes_: torch.Tensor) -> torch.Tensor:
    return bytes_.clone().view(torch.float32)


def _f16(bytes_: torch.Tensor) -> torch.Tensor:
    return bytes_.view(torch.float16).float()


def _bf16(bytes_: torch.Tensor) -> torch.Tensor:
    return bytes_.view(torch.bfloat16).float()


def _q8_0(bytes_: torch.Tensor) -> torch.Tensor:
    blocks = bytes_.view(-1, 2 + BLOCK)
    return (_half(blocks, 0) * blocks[:, 2:].view(torch.int8)).flatten()


def _q4_0(bytes_: torch.Tensor) -> torch.Tensor:
    blocks = bytes_.view(-1, 2 + BLOCK // 2)
    return _nibbles(blocks[:, 2:]).sub_(8).mul_(_half(blocks, 0)).flatten()


def _q4_1(bytes_: torch.Tensor) -> torch.Tensor:
    blocks = bytes_.view(-1, 4 + BLOCK // 2)
    return _nibbles(blocks[:, 4:]).mul_(_half(blocks, 0)).add_(_half(blocks, 2)).flatten()


def _half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """As float32, written once: this is most of the time that loading a four-bit model takes."""
    low_high = torch.empty(packed.shape[0], BLOCK)
    low_high[:, : BLOCK // 2] = packed & 0x0F
    low_high[:, BLOCK // 2 :] = packed >> 4
    return low_high


DECODERS: dict[GGMLType, Callable[[torch.Tensor], torch.Tensor]] = {
    GGMLType.F32: _f32,
    GGMLType.F16: _f16,
    GGMLType.BF16: _bf16,
    GGMLType.Q8_0: _q8_0,
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_1: _q4_1,
}
