"""Tests of the check that a device can still compute, which never fails for a processor."""

import pytest
import torch

from worker.errors import DeviceLostError
from worker.kernels.device_health import check_device


def illegal_access(device: torch.device) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_processor_is_never_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", illegal_access)
    check_device(torch.device("cpu"))


def test_a_device_is_lost_where_it_cannot_even_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", illegal_access)
    with pytest.raises(DeviceLostError, match=r"this process can no longer compute on cuda:1: CUDA error: an illegal"):
        check_device(torch.device("cuda", 1))


def test_a_device_that_ends_what_it_was_given_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_for: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited_for.append)
    check_device(torch.device("cuda", 1))
    assert waited_for == [torch.device("cuda", 1)]
