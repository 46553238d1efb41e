"""Reading integers of 4 or 8 bits from the 32-bit words of quantized checkpoints.

Legend: O, I outputs and inputs of a linear, R some of its rows, X any dimension.
"""

import torch

PLACES = (0, 1, 2, 3, 4, 5, 6, 7)
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""The place in a word of each of eight outputs: places 0 to 7 hold the outputs 0, 2, 4, 6, 1, 3, 5, 7."""


def fields_of_rows(words_RX: torch.Tensor, bits: int) -> torch.Tensor:
    """Return uint8 [R, X * 32 / bits]: the fields of each word side by side, from the lowest bits."""
    bytes_RX = words_RX.contiguous().view(torch.uint8)
    if bits == 8:
        return bytes_RX
    return torch.stack((bytes_RX & 15, bytes_RX >> 4), dim=-1).flatten(1)


def fields_of_columns(
    words_XO: torch.Tensor, bits: int, outputs_R: torch.Tensor, places: tuple[int, ...] = PLACES
) -> torch.Tensor:
    """Return uint8 [R, X]: the fields of some outputs, whose words hold neighbouring outputs."""
    bytes_XO = words_XO.view(torch.uint8)
    if bits == 8:
        return bytes_XO.index_select(1, outputs_R).T
    field_R = outputs_R // 8 * 8 + torch.tensor(places)[outputs_R % 8]
    packed_XR = bytes_XO.index_select(1, field_R // 2)
    return (packed_XR >> (field_R % 2 * 4).to(torch.uint8)).bitwise_and_(15).T


def add_one(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Return words with 1 added to each field, where a carry goes into the next field.

    GPTQ's first version subtracts 1 from whole words, and 0 minus 1 borrows from the next field.
    """
    ones = 0x11111111 if bits == 4 else 0x01010101
    return words + ones  # int32 wraps.
