"""GGML's k-quants to float32: 256 weights in runs of 16 or 32, each run with a small scale of its own.

Which format is decoded by what is in dequantize.py. Legend: n blocks as rows of uint8, R runs in a block,
W weights in a run (R * W = 256). A run's scale is the block's float16 d times the run's integer; likewise its minimum, of
dmin, which is subtracted.
"""

import torch

from worker.weights.four_bit import FourBitWeight
from worker.weights.ggml_bits import half, unpack

BLOCK = 256


def q2_k(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes: scale and minimum nibbles 16, integers 64, d 2, dmin 2."""
    scales_nR, minima_nR = blocks[:, :16] & 0x0F, blocks[:, :16] >> 4
    values = unpack(blocks[:, 16:80].contiguous(), bits=2, group=32)
    return _scaled(values.float(), half(blocks, 80) * scales_nR, half(blocks, 82) * minima_nR)


def q3_k(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes: third bits 32, low bits 64, scales 12, d 2. Integers are less 4, scales less 32."""
    third = unpack(blocks[:, :32].contiguous(), bits=1, group=32)
    values = unpack(blocks[:, 32:96].contiguous(), bits=2, group=32) | (third << 2)
    low = unpack(blocks[:, 96:104].contiguous(), bits=4, group=8)
    high = unpack(blocks[:, 104:108].contiguous(), bits=2, group=4)
    scales_nR = (low | (high << 4)).float().sub_(32)
    return _scaled(values.float().sub_(4), half(blocks, 108) * scales_nR)


def q4_k(blocks: torch.Tensor) -> FourBitWeight:
    """Bytes: d 2, dmin 2, scales and minima 12, integers 128."""
    scales_nR, minima_nR = _scales_and_minima(blocks[:, 4:16])
    integers = unpack(blocks[:, 16:].contiguous(), bits=4, group=32)
    scales_nR, minima_nR = half(blocks, 0) * scales_nR, half(blocks, 2) * -minima_nR.float()
    return FourBitWeight(integers_OI=integers, scale_OG=scales_nR, minimum_OG=minima_nR)


def q5_k(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes: d 2, dmin 2, scales and minima 12, fifth bits 32, low bits 128."""
    scales_nR, minima_nR = _scales_and_minima(blocks[:, 4:16])
    fifth = unpack(blocks[:, 16:48].contiguous(), bits=1, group=32)
    values = unpack(blocks[:, 48:].contiguous(), bits=4, group=32) | (fifth << 4)
    return _scaled(values.float(), half(blocks, 0) * scales_nR, half(blocks, 2) * minima_nR)


def q6_k(blocks: torch.Tensor) -> torch.Tensor:
    """Bytes: low bits 128, high bits 64, scales 16 (signed), d 2. Integers are less 32."""
    high = unpack(blocks[:, 128:192].contiguous(), bits=2, group=32)
    values = unpack(blocks[:, :128].contiguous(), bits=4, group=64) | (high << 4)
    scales_nR = blocks[:, 192:208].view(torch.int8)
    return _scaled(values.float().sub_(32), half(blocks, 208) * scales_nR)


def _scales_and_minima(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight of each, six bits wide: the first four whole, the others' upper two bits above those."""
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales_nR = torch.cat((first & 0x3F, (rest & 0x0F) | ((first >> 2) & 0x30)), dim=1)
    minima_nR = torch.cat((second & 0x3F, (rest >> 4) | ((second >> 2) & 0x30)), dim=1)
    return scales_nR, minima_nR


def _scaled(values: torch.Tensor, scales_nR: torch.Tensor, minima_nR: torch.Tensor | None = None) -> torch.Tensor:
    """Each operation rounds by itself, as in ggml: no multiply-add."""
    values_nRW = values.view(*scales_nR.shape, -1).mul_(scales_nR[..., None])
    if minima_nR is not None:
        values_nRW.sub_(minima_nR[..., None])
    return values_nRW.view(-1, BLOCK)
