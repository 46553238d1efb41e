"""GGML's older block formats to float32: 32 weights that share a float16 scale d and, in the "_1" kinds, a minimum m.

Which format is decoded by what is in dequantize.py. Legend: n blocks as rows of uint8. Weights 0 to 15 are
in the low nibbles and 16 to 31 in the high ones; five-bit kinds have the fifth bits apart, one bit after the other.
"""

import torch

from worker.weights.four_bit import FourBitWeight
from worker.weights.ggml_bits import half, unpack


def q8_0(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes: d 2, integers 32."""
    return half(blocks, 0) * blocks[:, 2:].view(torch.int8)


def q4_0(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes: d 2, nibbles 16. d * (q - 8)."""
    return _nibbles(blocks[:, 2:]).float().sub_(8).mul_(half(blocks, 0))


def q4_0_with_minimum(blocks: torch.Tensor) -> FourBitWeight:
    """d * q - 8 * d: the same but for the sign of zeros, since all of it is exact."""
    scale = half(blocks, 0)
    return FourBitWeight(integers_OI=_nibbles(blocks[:, 2:]), scale_OG=scale, minimum_OG=scale * -8)


def q4_1(blocks: torch.Tensor) -> FourBitWeight:
    """Bytes: d 2, m 2, nibbles 16. d * q + m."""
    return FourBitWeight(integers_OI=_nibbles(blocks[:, 4:]), scale_OG=half(blocks, 0), minimum_OG=half(blocks, 2))


def q5_0(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes: d 2, fifth bits 4, nibbles 16. d * (q - 16)."""
    return _five_bits(blocks[:, 2:]).float().sub_(16).mul_(half(blocks, 0))


def q5_1(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes: d 2, m 2, fifth bits 4, nibbles 16. d * q + m."""
    return _five_bits(blocks[:, 4:]).float().mul_(half(blocks, 0)).add_(half(blocks, 2))


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    return torch.cat((packed & 0x0F, packed >> 4), dim=1)


def _five_bits(packed: torch.Tensor) -> torch.Tensor:
    fifth = unpack(packed[:, :4].contiguous(), bits=1, group=1)
    return _nibbles(packed[:, 4:]) | (fifth << 4)
