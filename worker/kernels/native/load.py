"""The integer mode's kernels for this machine: native ones where they can be built and give the same bits, else torch's."""

import logging
import time
from pathlib import Path

from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS, KVFormat
from worker.kernels.native.build import BuildError, build_library
from worker.kernels.native.kernels import NativeIntegerKernels
from worker.kernels.native.library import load_library
from worker.kernels.native.self_check import find_difference

logger = logging.getLogger(__name__)


def load_integer_kernels(directory: Path, kv_format: KVFormat = KV_FORMATS[DEFAULT_KV_DTYPE]) -> IntegerKernels:
    """Never fails: whatever is in the way of native kernels is logged, and torch computes."""
    started, twin = time.monotonic(), IntegerKernels(kv_format=kv_format)
    try:
        path = build_library(directory)
        kernels = NativeIntegerKernels(load_library(path), kv_format)
        difference = find_difference(kernels, twin)
    except (BuildError, OSError, AttributeError) as error:
        return _fall_back(twin, str(error))
    if difference is not None:
        return _fall_back(twin, f"{difference} gives other bits than torch's on this machine")
    logger.info("native kernels loaded", extra={"path": str(path), "seconds": time.monotonic() - started})
    return kernels


def _fall_back(twin: IntegerKernels, reason: str) -> IntegerKernels:
    logger.warning("computing without native kernels, which is slower", extra={"reason": reason})
    return twin
