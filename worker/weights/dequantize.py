"""Decoders of GGML's tensor formats. Dequantized, their results have the same bits as ggml and the gguf package.

Most are block formats, which pack integers, scales and minima into the bytes of a block. Each format from Q4_0 to Q6_K and
IQ4_XS is a function here, named in lower case. To add one, write its function and name it in GROUPED; its native form is in
worker/kernels/native/source/grouped_files.h.

- Older formats ("Q4_0", "Q5_1", ...): 32 weights share a float16 scale d and, in the "_1" kinds, a minimum m. Weights 0 to 15
  are in the low nibbles, 16 to 31 in the high ones. Five-bit kinds store the fifth bits separately, in order.
- k-quants ("Q2_K" to "Q6_K"): 256 weights in runs of 16 or 32, each run with a small scale of its own. A run's scale is the
  block's float16 d times the run's integer. Its minimum is dmin times another integer, and is subtracted.
- "IQ4_NL", "IQ4_XS": four bits with unevenly spaced values; each nibble is an index into one table.

Legend: n blocks as rows of uint8, R runs in a block, W weights in a run (R * W = 256).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pagoda.models.formats.ggml_type import GGMLType
from worker.weights.grouped import AnyWeight, GroupedWeight, as_float32
from worker.weights.linear_format import FloatFormat, StoredWeight

VALUES_PER_PASS = 1 << 20
"""Number of values unpacked at once: few enough to stay in a core's cache between operations and to need little memory."""
K_BLOCK = 256
IQ4_VALUES = torch.tensor((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), dtype=torch.int8)


class UnsupportedTypeError(ValueError):
    """A tensor is stored in an unsupported format; the message names the supported ones."""


def dequantize(data: memoryview, ggml_type: GGMLType) -> torch.Tensor:
    """Return the tensor as flat float32, in newly allocated memory."""
    _check_supported(ggml_type)
    decode = DECODERS[ggml_type]
    blocks = torch.frombuffer(data, dtype=torch.uint8).view(-1, ggml_type.block_bytes)
    values = torch.empty(blocks.shape[0], ggml_type.block_size)
    blocks_per_pass = VALUES_PER_PASS // ggml_type.block_size
    for some, their_blocks in zip(
        torch.split(values, blocks_per_pass), torch.split(blocks, blocks_per_pass), strict=True
    ):
        some.copy_(as_float32(decode(their_blocks)))
    return values.flatten()


@dataclass(frozen=True, slots=True)
class GGMLFormat:
    """One of GGML's types, in the part "blocks": the rows' bytes, uint8 [O, bytes of a row]."""

    ggml_type: GGMLType

    @property
    def name(self) -> str:
        return self.ggml_type.name

    def unpack(self, weight: StoredWeight, first: int, end: int) -> AnyWeight:
        """Return rows in newly allocated memory."""
        rows = weight.parts["blocks"][weight.file_rows(first, end)].contiguous()
        decoded = DECODERS[self.ggml_type](rows.view(-1, self.ggml_type.block_bytes))
        return decoded.view(len(rows)) if isinstance(decoded, GroupedWeight) else decoded.view(len(rows), -1)


def stored_blocks(
    data: memoryview, ggml_type: GGMLType, shape: tuple[int, int], row_order_O: torch.Tensor | None = None
) -> StoredWeight:
    """Return a matrix as it is in the file. Raises UnsupportedTypeError."""
    _check_supported(ggml_type)
    blocks = torch.frombuffer(data, dtype=torch.uint8).view(shape[0], -1)
    if ggml_type in FLOATS:
        dtype = FLOATS[ggml_type]
        return StoredWeight(
            format=FloatFormat(dtype), shape=shape, parts={"floats": blocks.view(dtype)}, row_order_O=row_order_O
        )
    return StoredWeight(format=GGMLFormat(ggml_type), shape=shape, parts={"blocks": blocks}, row_order_O=row_order_O)


def _check_supported(ggml_type: GGMLType) -> None:
    if ggml_type not in DECODERS:
        known = ", ".join(kind.name for kind in DECODERS)
        raise UnsupportedTypeError(f"unsupported tensor type {ggml_type.name}; supported: {known}")


def _stored_as(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda blocks: blocks.view(dtype)


def q8_0(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q8_0, d * q. Bytes: d 2, integers 32."""
    return _grouped(blocks[:, 2:].view(torch.int8), _half(blocks, 0))


def q4_0(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q4_0, d * (q - 8). Bytes: d 2, nibbles 16."""
    return _grouped(_nibbles(blocks[:, 2:]).view(torch.int8) - 8, _half(blocks, 0))


def q4_1(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q4_1, d * q + m. Bytes: d 2, m 2, nibbles 16."""
    return _grouped(_nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2))


def q5_0(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q5_0, d * (q - 16). Bytes: d 2, fifth bits 4, nibbles 16."""
    return _grouped(_five_bits(blocks[:, 2:]).view(torch.int8) - 16, _half(blocks, 0))


def q5_1(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q5_1, d * q + m. Bytes: d 2, m 2, fifth bits 4, nibbles 16."""
    return _grouped(_five_bits(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2))


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    return torch.cat((packed & 0x0F, packed >> 4), dim=1)


def _five_bits(packed: torch.Tensor) -> torch.Tensor:
    fifth = _unpack(packed[:, :4].contiguous(), bits=1, group=1)
    return _nibbles(packed[:, 4:]) | (fifth << 4)


def q2_k(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q2_K. Bytes: scale and minimum nibbles 16, integers 64, d 2, dmin 2."""
    scales_nR, minima_nR = blocks[:, :16] & 0x0F, blocks[:, :16] >> 4
    values = _unpack(blocks[:, 16:80].contiguous(), bits=2, group=32)
    return _grouped(values, _half(blocks, 80) * scales_nR, _half(blocks, 82) * -minima_nR.float())


def q3_k(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q3_K. Bytes: third bits 32, low bits 64, scales 12, d 2. Integers are stored plus 4, scales plus 32."""
    third = _unpack(blocks[:, :32].contiguous(), bits=1, group=32)
    values = _unpack(blocks[:, 32:96].contiguous(), bits=2, group=32) | (third << 2)
    low = _unpack(blocks[:, 96:104].contiguous(), bits=4, group=8)
    high = _unpack(blocks[:, 104:108].contiguous(), bits=2, group=4)
    scales_nR = (low | (high << 4)).float().sub_(32)
    return _grouped(values.view(torch.int8) - 4, _half(blocks, 108) * scales_nR)


def q4_k(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q4_K. Bytes: d 2, dmin 2, scales and minima 12, integers 128."""
    scales_nR, minima_nR = _scales_and_minima(blocks[:, 4:16])
    integers = _unpack(blocks[:, 16:].contiguous(), bits=4, group=32)
    return _grouped(integers, _half(blocks, 0) * scales_nR, _half(blocks, 2) * -minima_nR.float())


def q5_k(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q5_K. Bytes: d 2, dmin 2, scales and minima 12, fifth bits 32, low bits 128."""
    scales_nR, minima_nR = _scales_and_minima(blocks[:, 4:16])
    fifth = _unpack(blocks[:, 16:48].contiguous(), bits=1, group=32)
    values = _unpack(blocks[:, 48:].contiguous(), bits=4, group=32) | (fifth << 4)
    return _grouped(values, _half(blocks, 0) * scales_nR, _half(blocks, 2) * -minima_nR.float())


def q6_k(blocks: torch.Tensor) -> GroupedWeight:
    """Decode Q6_K. Bytes: low bits 128, high bits 64, scales 16 (signed), d 2. Integers are stored plus 32."""
    high = _unpack(blocks[:, 128:192].contiguous(), bits=2, group=32)
    values = _unpack(blocks[:, :128].contiguous(), bits=4, group=64) | (high << 4)
    scales_nR = blocks[:, 192:208].view(torch.int8)
    return _grouped(values.view(torch.int8) - 32, _half(blocks, 208) * scales_nR)


def _scales_and_minima(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eight scales and eight minima of six bits each.

    The first four of each are in the lower six bits of a byte. The other four are in two parts: the lower four bits in the last
    four bytes, the upper two bits in the upper bits of the first eight bytes.
    """
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales_nR = torch.cat((first & 0x3F, (rest & 0x0F) | ((first >> 2) & 0x30)), dim=1)
    minima_nR = torch.cat((second & 0x3F, (rest >> 4) | ((second >> 2) & 0x30)), dim=1)
    return scales_nR, minima_nR


def _grouped(values: torch.Tensor, scales_nR: torch.Tensor, minima_nR: torch.Tensor | None = None) -> GroupedWeight:
    """Return scale * value + minimum. Products with small integers are exact, so the sums have the bits of ggml's."""
    return GroupedWeight(integers_OI=values.contiguous().view(torch.int8), scale_OG=scales_nR, minimum_OG=minima_nR)


def iq4_nl(blocks: torch.Tensor) -> GroupedWeight:
    """Decode IQ4_NL, 32 weights. Bytes: d 2, nibbles 16."""
    return _grouped(_look_up(blocks[:, 2:]), _half(blocks, 0))


def iq4_xs(blocks: torch.Tensor) -> GroupedWeight:
    """Decode IQ4_XS, 256 weights in runs of 32.

    Bytes: d 2, upper two bits of the scales 2, their lower four bits 4, nibbles 128. Scales are stored plus 32.
    """
    high = _unpack(blocks[:, 2:4].contiguous(), bits=2, group=1)
    low = _unpack(blocks[:, 4:8].contiguous(), bits=4, group=1)
    return _grouped(_look_up(blocks[:, 8:]), _half(blocks, 0) * (low | (high << 4)).float().sub_(32))


def _look_up(packed: torch.Tensor) -> torch.Tensor:
    indices = _unpack(packed.contiguous(), bits=4, group=16)
    return IQ4_VALUES.index_select(0, indices.flatten().int()).view(indices.shape)


def _half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """Return the float16 at this byte of each block, as float32 [n, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _unpack(packed: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Split bytes [n, b] into fields of `bits` bits, uint8 [n, b * 8 / bits].

    Each group of `group` bytes holds 8 / bits runs of `group` values: the first run in the lowest bits of all bytes, the next
    one above it.
    """
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)[:, None]
    fields = packed.view(packed.shape[0], -1, 1, group) >> shifts
    return fields.bitwise_and_((1 << bits) - 1).view(packed.shape[0], -1)


GROUPED: dict[GGMLType, Callable[[torch.Tensor], GroupedWeight]] = {
    GGMLType.Q8_0: q8_0,
    GGMLType.Q4_0: q4_0,
    GGMLType.Q4_1: q4_1,
    GGMLType.Q5_0: q5_0,
    GGMLType.Q5_1: q5_1,
    GGMLType.Q2_K: q2_k,
    GGMLType.Q3_K: q3_k,
    GGMLType.Q4_K: q4_k,
    GGMLType.Q5_K: q5_k,
    GGMLType.Q6_K: q6_k,
    GGMLType.IQ4_NL: iq4_nl,
    GGMLType.IQ4_XS: iq4_xs,
}

FLOATS = {GGMLType.F32: torch.float32, GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16}

DECODERS: dict[GGMLType, Callable[[torch.Tensor], AnyWeight]] = {
    **{ggml_type: _stored_as(dtype) for ggml_type, dtype in FLOATS.items()},
    **GROUPED,
}
"""Functions from blocks [n, bytes] to values [n, values per block], as integers in groups or as floats of any type."""
