"""The integer mode's kernels for this machine: native ones where they can be built and give the same bits, else torch's."""

import ctypes
import logging
import time
from pathlib import Path

from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS, KVFormat
from worker.kernels.native.attempts import CheckError, NoLibraryError, load_first
from worker.kernels.native.kernels import NativeIntegerKernels
from worker.kernels.native.self_check import find_difference

logger = logging.getLogger(__name__)


def load_integer_kernels(directory: Path, kv_format: KVFormat = KV_FORMATS[DEFAULT_KV_DTYPE]) -> IntegerKernels:
    """Never fails: whatever is in the way of native kernels is logged, and slower ones compute."""
    started, twin = time.monotonic(), IntegerKernels(kv_format=kv_format)

    def check(library: ctypes.CDLL) -> NativeIntegerKernels:
        kernels = NativeIntegerKernels(library, kv_format)
        if difference := find_difference(kernels, twin):
            raise CheckError(f"{difference} gives other bits than torch's on this machine")
        return kernels

    try:
        loaded = load_first(directory, check)
    except NoLibraryError as error:
        logger.warning("computing without native kernels, which is slower", extra={"reason": str(error)})
        return twin
    if loaded.rejected:
        logger.warning("computing with fewer of the processor's instructions", extra={"reason": loaded.rejected})
    logger.info("native kernels loaded", extra={"path": str(loaded.path), "seconds": time.monotonic() - started})
    return loaded.value
