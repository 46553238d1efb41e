"""The memory behind the page ids: how many pages fit, and their allocation, layer by layer.

The kernels decide how one layer's memory is laid out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pagoda.models.model import ModelConfig
from pagoda.process.memory import AvailableMemory, available_memory
from pagoda.process.resources import return_memory
from worker.errors import NotEnoughMemoryError
from worker.kernels.integer_attention import IntegerKV
from worker.kernels.interface import Kernels, LayerKV

_NUM_FULL_SEQUENCES = 64
"""More memory than this many sequences of full length need is never taken by default."""
_SHARE = 0.25
_SMALL_BYTES, _SMALL_SHARE = 1_000_000_000, 0.5
_LARGE_BYTES, _LARGE_SHARE = 4_000_000_000, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class KVMemory:
    layers: Sequence[LayerKV]
    page_size: int
    num_pages: int
    num_bytes: int

    def return_pages(self, runs: Sequence[range]) -> None:
        """Return the memory of pages that hold nothing to the machine, if it is the machine's. A later step may use them again."""
        for tensor in (each for layer in self.layers for each in _tensors_of(layer)):
            if tensor.device.type == "cpu":
                page_bytes = tensor.nbytes // self.num_pages
                for run in runs:
                    return_memory(tensor.data_ptr() + run.start * page_bytes, len(run) * page_bytes)


def _tensors_of(layer: LayerKV) -> tuple[torch.Tensor, ...]:
    """Return the tensors of a layer's memory. In each, equal parts belong to the pages, in order."""
    return (
        (layer.integers, layer.scales)
        if isinstance(layer, IntegerKV)
        else (layer,)
        if isinstance(layer, torch.Tensor)
        else ()
    )


def allocate_kv_memory(kernels: Kernels, config: ModelConfig, *, page_size: int, budget_bytes: int) -> KVMemory:
    """Allocate as many pages as the budget holds. Raises NotEnoughMemoryError if it does not hold one."""
    page_bytes = bytes_per_page(kernels, config, page_size)
    num_pages = budget_bytes // page_bytes
    if num_pages < 1:
        raise NotEnoughMemoryError(
            f"KV memory of {budget_bytes} bytes cannot hold a single page of {page_size} tokens, which takes"
            f" {page_bytes} bytes for this model; set a larger --kv-memory"
        )
    layers = [
        kernels.allocate_kv(num_pages, page_size, config.num_kv_heads, config.head_size)
        for _ in range(config.num_layers)
    ]
    return KVMemory(layers=layers, page_size=page_size, num_pages=num_pages, num_bytes=num_pages * page_bytes)


def bytes_per_page(kernels: Kernels, config: ModelConfig, page_size: int) -> int:
    """Return the size of one page, summed over all layers."""
    return config.num_layers * kernels.kv_bytes_per_page(page_size, config.num_kv_heads, config.head_size)


def default_budget_bytes(
    page_bytes: int,
    *,
    page_size: int,
    max_model_len: int,
    available_bytes: int,
    device: str = "cpu",
    num_workers: int = 1,
) -> int:
    """Return the default size of KV memory, which `num_workers` workers of one machine share.

    It is a quarter of what is available beside the weights. A processor's memory is also needed by other programs, so there
    it is at most 4 GB, or a tenth of the available memory if that is more. Where a quarter is little, it is half, up to 1 GB.
    It holds at least one sequence of full length if half of the available memory can.
    """
    share = available_bytes // num_workers
    sequence_bytes = -(-max_model_len // page_size) * page_bytes
    budget_bytes = int(_SHARE * share)
    if device == "cpu":
        most_bytes = max(_LARGE_BYTES, int(_LARGE_SHARE * available_bytes)) // num_workers
        budget_bytes = min(max(budget_bytes, min(_SMALL_BYTES // num_workers, int(_SMALL_SHARE * share))), most_bytes)
    if sequence_bytes <= share // 2:
        budget_bytes = max(budget_bytes, sequence_bytes)
    return min(budget_bytes, _NUM_FULL_SEQUENCES * sequence_bytes)


def measure_available(device: torch.device) -> AvailableMemory:
    """Return how much memory this process can still allocate: a GPU's free memory, or the machine's."""
    if device.type == "cuda":
        return AvailableMemory(torch.cuda.mem_get_info(device)[0])
    return available_memory()
