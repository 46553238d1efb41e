"""The native kernels, built once for all tests that compare them with the reference implementation."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.fakes.native_code import directory_to_compile_in
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS
from worker.kernels.native.bindings import load_library
from worker.kernels.native.build import THIS_PROCESSOR, BuildError, build_library, find_compiler
from worker.kernels.native.kernels import NativeIntegerKernels


def native_library(architecture: str = THIS_PROCESSOR) -> ctypes.CDLL:
    library = _library(architecture)
    if isinstance(library, str):
        pytest.skip(library, allow_module_level=True)
    return load_library(library)


def native_kernels(kv_dtype: str = DEFAULT_KV_DTYPE, architecture: str = THIS_PROCESSOR) -> NativeIntegerKernels:
    return NativeIntegerKernels(native_library(architecture), KV_FORMATS[kv_dtype])


def same_bits(result: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return True if all values are equal; zeros of either sign count as equal, and so do NaNs."""
    return result.shape == expected.shape and bool(((result == expected) | (result.isnan() & expected.isnan())).all())


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _library(architecture: str) -> Path | str:
    try:
        with directory_to_compile_in() as directory:
            return build_library(directory, find_compiler(), architecture)
    except BuildError as error:
        return str(error)
