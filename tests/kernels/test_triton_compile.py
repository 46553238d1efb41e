"""Tests that all GPU kernels compile ahead of time, without a GPU, and fit the limits of the GPUs."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is made for Linux only")

from worker.kernels.triton.compile import SHARED_BYTES, TARGETS

MODELS = ["Phi-2", "Gemma 2 2B"]
"""Models with head size 80, which is padded to 128, and 256; the second has capped scores."""
KERNELS = {"write_kv_kernel", "decode_split_kernel", "decode_join_kernel", "prefill_kernel"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    # Compilation needs a process of its own: kernels defined for the interpreter, as in this process, cannot be compiled.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    models = [argument for model in MODELS for argument in ("--model", model)]
    command = [sys.executable, "-m", "worker.kernels.triton.compile", "--json", *models]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("target", TARGETS)
def test_compiles_without_spilling(target: str, compiled: list[dict[str, Any]]) -> None:
    rows = [row for row in compiled if row["target"] == target]
    assert {(row["model"], row["kernel"]) for row in rows} == {
        (model, kernel) for model in MODELS for kernel in KERNELS
    }
    for row in rows:
        assert row["binary_bytes"] > 1000
        assert 0 < row["registers"] <= 512
        assert row["spilled_bytes"] == 0
        assert row["shared_bytes"] <= SHARED_BYTES[target]
