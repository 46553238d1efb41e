"""The storage types of GGML tensors: their numbers in a file, their names, and the size of a block of values.

worker/weights/ defines how values are packed in a block.
"""

from enum import Enum


class GGMLType(Enum):
    """A storage type: (number in the file, values per block, bytes per block). Includes unsupported types, for error messages."""

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q8_1 = (9, 32, 40)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    Q8_K = (15, 256, 292)
    IQ2_XXS = (16, 256, 66)
    IQ2_XS = (17, 256, 74)
    IQ3_XXS = (18, 256, 98)
    IQ1_S = (19, 256, 50)
    IQ4_NL = (20, 32, 18)
    IQ3_S = (21, 256, 110)
    IQ2_S = (22, 256, 82)
    IQ4_XS = (23, 256, 136)
    I8 = (24, 1, 1)
    I16 = (25, 1, 2)
    I32 = (26, 1, 4)
    I64 = (27, 1, 8)
    F64 = (28, 1, 8)
    IQ1_M = (29, 256, 56)
    BF16 = (30, 1, 2)
    TQ1_0 = (34, 256, 54)
    TQ2_0 = (35, 256, 66)
    MXFP4 = (39, 32, 17)

    def __init__(self, number: int, block_size: int, block_bytes: int) -> None:
        self.number = number
        self.block_size = block_size
        self.block_bytes = block_bytes

    @classmethod
    def from_number(cls, number: int) -> "GGMLType | None":
        return _BY_NUMBER.get(number)


_BY_NUMBER = {member.number: member for member in GGMLType}

FLOAT_TYPES = frozenset((GGMLType.F32, GGMLType.F16, GGMLType.BF16))
READABLE_TYPES = frozenset(
    (
        *FLOAT_TYPES,
        *(GGMLType.Q8_0, GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_0),
        *(GGMLType.Q5_1, GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K),
        *(GGMLType.IQ4_NL, GGMLType.IQ4_XS),
    )
)
"""Types that the worker can decode."""
