"""The order of a checkpoint's rows of queries and keys.

Layers rotate pairs (i, i + R/2) of the first R elements of a head. ggml rotates neighbours for some architectures, and
llama.cpp's converter reorders rows for that; a few classes of transformers rotate neighbours, too. Reading the rows in another
order makes both the same.
"""

import torch

from pagoda.models.formats.families.tables import TENSORS
from pagoda.models.model import ModelConfig, ModelFormat


def row_order(config: ModelConfig, checkpoint: ModelFormat, name: str, num_rows: int) -> torch.Tensor | None:
    """Return, for each row in the layers' order, its row in the checkpoint; None if the orders are equal.

    `name` is Pagoda's name of a weight or bias. A tensor with another number of rows than it must have keeps its order.
    """
    if checkpoint not in TENSORS[config.architecture].interleaved or not name.startswith("layers."):
        return None
    q_order, k_order = _heads(config, config.num_heads), _heads(config, config.num_kv_heads)
    match name.split(".")[-2]:
        case "q":
            order = q_order
        case "k":
            order = k_order
        case "qkv":
            num_kv_rows = len(k_order)
            v_order = torch.arange(len(q_order) + num_kv_rows, len(q_order) + 2 * num_kv_rows)
            order = torch.cat((q_order, k_order + len(q_order), v_order))
        case _:
            return None
    return order if len(order) == num_rows else None


def _heads(config: ModelConfig, num_heads: int) -> torch.Tensor:
    rows_NH = torch.arange(num_heads * config.head_size).view(num_heads, config.head_size)
    rotated_NR, rest_NX = rows_NH.tensor_split([config.rotary_size or config.head_size], dim=1)
    return torch.cat((rotated_NR[:, ::2], rotated_NR[:, 1::2], rest_NX), dim=1).flatten()
