"""A check that a device can still compute: after a sticky CUDA error, every further call of the process fails."""

import torch

from worker.errors import DeviceLostError


def check_device(device: torch.device) -> None:
    """Raise DeviceLostError if this process can no longer compute on the device. Call it after an error.

    It never raises for a processor.
    """
    if device.type == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise DeviceLostError(f"this process can no longer compute on {device}: {error}") from error
