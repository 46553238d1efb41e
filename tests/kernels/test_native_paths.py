"""Tests of each path of the native code that this processor can run, against the reference implementations in torch."""

import platform
from pathlib import Path

import pytest
import torch

from tests.kernels.native import native_kernels, native_library, threads
from tests.kernels.stepping import SteppedModel
from tests.kernels.test_batch_invariance import PROMPT
from tests.kernels.tiny_families import FAMILIES, make_model, save_safetensors
from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import KV_FORMATS
from worker.kernels.native import load
from worker.kernels.native.build import architectures
from worker.kernels.native.self_check import find_difference
from worker.models.families import load_model

native_kernels()  # Without a compiler this skips the module.
# The last has vectors of 128 bits, for which there is no special code; it is the portable path.
PATHS = [*architectures(), *(["nehalem"] if platform.machine() == "x86_64" else [])]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kv_dtype", KV_FORMATS)
def test_kernels(path: str, kv_dtype: str) -> None:
    kernels, reference = native_kernels(kv_dtype, path), IntegerKernels(kv_format=KV_FORMATS[kv_dtype])
    assert kernels.numerics_id == reference.numerics_id
    assert find_difference(kernels, reference) is None


@pytest.mark.parametrize("path", PATHS)
def test_choosing_tokens(path: str) -> None:
    load.check_chooser(native_library(path))


@pytest.mark.parametrize("family", ["gemma3", "llama3"])
def test_models(family: str, tmp_path: Path) -> None:
    saved = save_safetensors(make_model(FAMILIES[family]), tmp_path)
    with threads(1):
        reference, *paths = (
            SteppedModel(load_model(saved, kernels), kernels).run("a", PROMPT, [40, 1, 9])
            for kernels in (IntegerKernels(), *(native_kernels(architecture=path) for path in PATHS))
        )
    assert [path for path, logits in zip(PATHS, paths, strict=True) if not torch.equal(logits, reference)] == []
