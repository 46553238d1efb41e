"""Random blocks of GGML's types: any integers, with scales that give the weights a mean near zero and a usual size."""

import numpy as np
from numpy.typing import NDArray

from pagoda.models.formats.ggml_type import GGMLType

DEVIATION = 0.02
"""Standard deviation of the weights, approximately."""
Bytes = NDArray[np.uint8]

# The deviation of each type's integers, with the integers that multiply them.
_INTEGERS = {
    GGMLType.Q4_0: 4.6,
    GGMLType.Q4_1: 4.6,
    GGMLType.Q5_0: 9.2,
    GGMLType.Q5_1: 9.2,
    GGMLType.Q8_0: 74.0,
    GGMLType.Q2_K: 1.1 * 8.8,
    GGMLType.Q3_K: 2.3 * 18.5,
    GGMLType.Q4_K: 4.6 * 36.5,
    GGMLType.Q5_K: 9.2 * 36.5,
    GGMLType.Q6_K: 18.5 * 74.0,
    GGMLType.IQ4_NL: 68.0,
    GGMLType.IQ4_XS: 68.0 * 18.5,
}
# The place of the scale in a block, and of the minimum with its size in scales. A minimum has the integer of its scale.
_SCALES = {
    **dict.fromkeys((GGMLType.Q4_0, GGMLType.Q5_0, GGMLType.Q8_0, GGMLType.IQ4_NL, GGMLType.IQ4_XS), 0),
    **dict.fromkeys((GGMLType.Q4_1, GGMLType.Q5_1, GGMLType.Q4_K, GGMLType.Q5_K), 0),
    GGMLType.Q2_K: 80,
    GGMLType.Q3_K: 108,
    GGMLType.Q6_K: 208,
}
_MINIMA = {
    GGMLType.Q4_1: (2, -7.5),
    GGMLType.Q5_1: (2, -15.5),
    GGMLType.Q2_K: (82, 1.5),
    GGMLType.Q4_K: (2, 7.5),
    GGMLType.Q5_K: (2, 15.5),
}


def random_blocks(ggml_type: GGMLType, num_blocks: int, source: np.random.Generator) -> Bytes:
    """Return blocks [num_blocks, bytes of a block]."""
    if ggml_type in (GGMLType.F32, GGMLType.F16, GGMLType.BF16):
        return _floats(ggml_type, num_blocks, source)
    blocks = np.frombuffer(bytearray(source.bytes(num_blocks * ggml_type.block_bytes)), np.uint8)
    blocks = blocks.reshape(num_blocks, -1)
    sizes = source.uniform(0.5, 1.5, num_blocks) * DEVIATION / _INTEGERS[ggml_type]
    if ggml_type not in _MINIMA:
        sizes *= source.choice((-1, 1), num_blocks)
    else:
        _equal_minima(ggml_type, blocks)
        place, factor = _MINIMA[ggml_type]
        _set_half(blocks, place, sizes * factor)
    _set_half(blocks, _SCALES[ggml_type], sizes)
    return blocks


def _floats(ggml_type: GGMLType, count: int, source: np.random.Generator) -> Bytes:
    values = source.standard_normal(count, np.float32) * np.float32(DEVIATION)
    if ggml_type is GGMLType.BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(count, -1)
    dtype = np.float16 if ggml_type is GGMLType.F16 else np.float32
    return values.astype(dtype).view(np.uint8).reshape(count, -1)


def _equal_minima(ggml_type: GGMLType, blocks: Bytes) -> None:
    """Give each minimum the integer of its scale: the weights' mean is then zero."""
    if ggml_type is GGMLType.Q2_K:
        blocks[:, :16] = (blocks[:, :16] & 0x0F) * 0x11
    elif ggml_type in (GGMLType.Q4_K, GGMLType.Q5_K):
        blocks[:, 8:12] = blocks[:, 4:8]
        blocks[:, 12:16] = (blocks[:, 12:16] & 0x0F) * 0x11


def _set_half(blocks: Bytes, place: int, values: NDArray[np.float64]) -> None:
    blocks[:, place : place + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)
