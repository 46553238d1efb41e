"""GGML's four-bit formats with unevenly spaced values ("IQ4") to float32: each nibble is an index into one table.

Which format is decoded by what is in dequantize.py. Legend as in k_quants.py.
"""

import torch

from worker.weights.ggml_bits import half, unpack

VALUES = torch.tensor((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), dtype=torch.float32)


def iq4_nl(blocks: torch.Tensor) -> torch.Tensor:
    """32 weights. Bytes: d 2, nibbles 16."""
    return _look_up(blocks[:, 2:]).mul_(half(blocks, 0))


def iq4_xs(blocks: torch.Tensor) -> torch.Tensor:
    """256 weights in runs of 32. Bytes: d 2, scales' upper two bits 2, their lower four 4, nibbles 128. Scales are less 32."""
    high = unpack(blocks[:, 2:4].contiguous(), bits=2, group=1)
    low = unpack(blocks[:, 4:8].contiguous(), bits=4, group=1)
    scales_nR = half(blocks, 0) * (low | (high << 4)).float().sub_(32)
    values_nRW = _look_up(blocks[:, 8:]).view(*scales_nR.shape, -1)
    return values_nRW.mul_(scales_nR[..., None]).view(blocks.shape[0], -1)


def _look_up(packed: torch.Tensor) -> torch.Tensor:
    indices = unpack(packed.contiguous(), bits=4, group=16)
    return VALUES.index_select(0, indices.flatten().int()).view(indices.shape)
