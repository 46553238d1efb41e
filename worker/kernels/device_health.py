"""Whether a device can still compute: a CUDA error may be sticky, so that every further call of the process fails."""

import torch

from worker.errors import DeviceLostError


def check_device(device: torch.device) -> None:
    """Call after an error. Raises DeviceLostError where the device computes nothing more in this process; never for a processor."""
    if device.type == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise DeviceLostError(f"{device} computes nothing more in this process: {error}") from error
