"""Tests of the choice of a worker's kernels, and of the errors if there are none."""

import subprocess
import sys

import pytest
import torch

from worker.kernels.select import MissingDeviceError, UnknownKernelsError, select_kernels


def test_a_processor_computes_in_integers_by_default() -> None:
    assert select_kernels(None, "cpu").numerics_id == select_kernels("integer", "cpu").numerics_id


def test_what_keys_and_values_are_kept_in() -> None:
    default, int16, int8 = (select_kernels(None, "cpu", kv_dtype=name) for name in (None, "int16", "int8"))
    assert default.numerics_id == int16.numerics_id != int8.numerics_id
    assert int8.kv_bytes_per_page(16, 3, 64) < 0.55 * int16.kv_bytes_per_page(16, 3, 64)
    with pytest.raises(
        UnknownKernelsError, match=r"--kv-dtype can be set only with --numerics integer \(got 'int8' with 'float32'\)"
    ):
        select_kernels("float32", "cpu", kv_dtype="int8")


def test_unknown_device() -> None:
    with pytest.raises(UnknownKernelsError, match=r"on device 'tpu'; supported: integer on cpu, .*bfloat16 on cuda"):
        select_kernels(None, "tpu")


@pytest.mark.parametrize(("device", "version"), [("cuda", "cuda"), ("hip", "hip")])
def test_torch_for_another_device(device: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, version, None)
    with pytest.raises(MissingDeviceError, match=r"not built for .* GPUs .*--device cpu"):
        select_kernels(None, device)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDeviceError, match="finds no GPU for 'cuda'"):
        select_kernels(None, "cuda")


@pytest.mark.parametrize("device", ["cuda", "hip"])
def test_a_gpu_computes_in_bfloat16_by_default(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is made for Linux only")
    pretend_gpu(device, monkeypatch)
    kernels = select_kernels(None, device)
    assert kernels.numerics_id == "triton-bf16-kv-bf16-1"
    assert kernels.device == torch.device("cuda", 0)
    assert select_kernels("float32", device).numerics_id == "triton-fp32-kv-fp32-1"


def test_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu("cuda", monkeypatch)
    for name in [name for name in sys.modules if name.startswith("worker.kernels.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingDeviceError, match=r"needs the package 'triton'.*extra 'gpu'"):
        select_kernels(None, "cuda")


def test_a_worker_on_a_processor_does_without_triton() -> None:
    code = (
        "import sys, worker.loading.start, worker.kernels.select\n"
        "worker.kernels.select.select_kernels(None, 'cpu')\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'triton'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def pretend_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, device, "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
