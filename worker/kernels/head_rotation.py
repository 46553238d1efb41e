"""The Hadamard rotation of queries and keys, which spreads an element much larger than the others over its head.

In Qwen 2.5 the biases of keys make a few elements of a head 100 times as large as the others. With one scale for the head,
rounding would leave the others a hundredth of the levels. If queries and keys are rotated in the same way, their products stay
the same. A head is rotated in blocks of BLOCK elements; the rest of a head, in blocks that are smaller powers of two.

It uses only sums, differences and factors that are powers of two: see fixed_point.py. Legend as in step_batch.py.
"""

from collections.abc import Iterator

import torch

from worker.kernels.hadamard_int8 import BLOCK, rotate


def rotate_queries(q_TNH: torch.Tensor) -> torch.Tensor:
    return torch.cat([rotate(q_TNH[..., block]) for block in _blocks(q_TNH.shape[-1])], dim=-1)


def rotate_keys(k_TNH: torch.Tensor) -> torch.Tensor:
    """Return the rotated keys. They are divided by the size of a block, since products of rotated blocks are larger by it."""
    blocks = _blocks(k_TNH.shape[-1])
    return torch.cat([rotate(k_TNH[..., block]) * (1.0 / (block.stop - block.start)) for block in blocks], dim=-1)


def _blocks(size: int) -> Iterator[slice]:
    """Yield the blocks of a head: each is the largest power of two, at most BLOCK, that is left."""
    start = 0
    while start < size:
        length = min(BLOCK, 1 << ((size - start).bit_length() - 1))
        yield slice(start, start + length)
        start += length
