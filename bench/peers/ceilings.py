"""Measurement of the machine's limits: bytes read from memory and int8 operations, per second.

Reading is torch's sum over more bytes than any cache holds. Operations are the fastest of three matrix products, in a
shape that suits all: our integer kernels with four-bit and with eight-bit weights, and torch in float32. Each is the
fastest of several tries on all cores.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.peers.roofline import Ceilings
from worker.kernels.interface import Kernels
from worker.kernels.select import select_kernels
from worker.weights.grouped import BLOCK, AnyWeight, GroupedWeight

READ_BYTES = 512 * 2**20
NUM_TOKENS, INPUT_SIZE, OUTPUT_SIZE = 512, 2048, 8192
NUM_TRIES = 10


def measure_ceilings(num_threads: int, native_directory: Path) -> Ceilings:
    """Measure both limits with this number of threads. Native kernels are compiled into `native_directory`."""
    torch.set_num_threads(num_threads)
    with torch.inference_mode():
        numbers = torch.ones(READ_BYTES // 4)
        read_s = _fastest_s(numbers.sum)
        integer, float32 = (select_kernels(mode, "cpu", native_directory) for mode in ("integer", "float32"))
        bytes_OI, grouped = torch.randn(OUTPUT_SIZE, INPUT_SIZE), _grouped_weight()
        products = (integer, grouped), (integer, bytes_OI), (float32, bytes_OI)
        product_s = min(_product_s(kernels, weight) for kernels, weight in products)
    num_operations = 2 * NUM_TOKENS * INPUT_SIZE * OUTPUT_SIZE
    return Ceilings(read_bytes_per_s=READ_BYTES / read_s, int8_operations_per_s=num_operations / product_s)


def _grouped_weight() -> GroupedWeight:
    num_blocks = INPUT_SIZE // BLOCK
    return GroupedWeight(
        integers_OI=torch.randint(16, (OUTPUT_SIZE, INPUT_SIZE), dtype=torch.int8),
        scale_OG=torch.rand(OUTPUT_SIZE, num_blocks),
        minimum_OG=torch.rand(OUTPUT_SIZE, num_blocks),
    )


def _product_s(kernels: Kernels, weight: AnyWeight) -> float:
    packed = kernels.pack_linear(weight)
    x_TI = torch.randn(NUM_TOKENS, INPUT_SIZE)
    return _fastest_s(lambda: kernels.linear(x_TI, packed))


def _fastest_s(work: Callable[[], object]) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(NUM_TRIES))
