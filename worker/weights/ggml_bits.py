"""How GGML packs small integers into a block's bytes; shared by the block formats.

Shapes: n blocks, as rows of uint8.
"""

import torch


def half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The float16 at this byte of each block, as float32 [n, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def unpack(packed: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Bytes to their fields of `bits` bits, uint8 [n, 8 / bits times as many].

    Each `group` bytes hold 8 / bits runs of `group` values: the first run in all their lowest bits, the next above it.
    """
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)[:, None]
    fields = packed.view(packed.shape[0], -1, 1, group) >> shifts
    return fields.bitwise_and_((1 << bits) - 1).view(packed.shape[0], -1)
