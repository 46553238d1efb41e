"""The choice of a worker's kernels by numerics mode and device, made once at start."""

from collections.abc import Callable
from pathlib import Path

import torch

from worker.errors import StartError
from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS, KVFormat
from worker.kernels.interface import Kernels
from worker.kernels.native.load import load_chooser, load_integer_kernels
from worker.kernels.reference import ReferenceKernels
from worker.kernels.sampling import ChooseTokens, choose_tokens
from worker.settings import DEFAULT_NUMERICS


class UnknownKernelsError(StartError):
    """This numerics mode is not implemented on this device; the message names those that are."""


class MissingDeviceError(StartError):
    """The device does not exist, or this installation cannot use it; the message says what is missing."""


def select_kernels(
    numerics: str | None, device: str, native_directory: Path | None = None, kv_dtype: str | None = None
) -> Kernels:
    """Return the kernels for a numerics mode, a device and a KV format; None selects the default of `numerics` or `kv_dtype`.

    Native kernels are built below `native_directory`; if it is None, the torch kernels are used.
    """
    mode = numerics or DEFAULT_NUMERICS.get(device, "")
    implementation = IMPLEMENTATIONS.get((mode, device))
    if implementation is None:
        known = ", ".join(f"{mode} on {place}" for mode, place in IMPLEMENTATIONS)
        raise UnknownKernelsError(f"numerics {mode!r} are not supported on device {device!r}; supported: {known}")
    if implementation is IntegerKernels:
        return _integer_kernels(native_directory, KV_FORMATS[kv_dtype or DEFAULT_KV_DTYPE])
    if kv_dtype is not None:
        raise UnknownKernelsError(
            f"--kv-dtype can be set only with --numerics integer (got {kv_dtype!r} with {mode!r}); leave it unset"
        )
    return implementation()


def _integer_kernels(native_directory: Path | None, kv_format: KVFormat) -> Kernels:
    if native_directory is None:
        return IntegerKernels(kv_format=kv_format)
    return load_integer_kernels(native_directory, kv_format)


def select_chooser(native_directory: Path | None = None) -> ChooseTokens:
    """Return the function that chooses tokens; it is the same for all modes and devices, on the processor."""
    return choose_tokens if native_directory is None else load_chooser(native_directory)


def _on_gpu(device: str, dtype: torch.dtype) -> Kernels:
    _check_gpu(device)
    try:
        # Imported only here, because a worker on a processor does not need Triton.
        from worker.kernels.triton.kernels import TritonKernels
    except ModuleNotFoundError as error:
        raise MissingDeviceError(
            f"computing on {device!r} needs the package {error.name!r}; install Pagoda's extra 'gpu'"
        ) from error
    return TritonKernels(torch.device("cuda", torch.cuda.current_device()), dtype)


def _check_gpu(device: str) -> None:
    """Raise MissingDeviceError if torch cannot use the GPU.

    torch calls the GPUs of both vendors cuda; `torch.version` says for which of them it was built.
    """
    built_for = torch.version.hip if device == "hip" else torch.version.cuda
    if built_for is None:
        maker = "AMD GPUs (ROCm)" if device == "hip" else "NVIDIA GPUs (CUDA)"
        raise MissingDeviceError(
            f"the installed torch {torch.__version__} was not built for {maker}; "
            f"install one that was (pytorch.org/get-started), or serve with --device cpu"
        )
    if not torch.cuda.is_available():
        raise MissingDeviceError(f"torch finds no GPU for {device!r}; check its driver, or serve with --device cpu")


IMPLEMENTATIONS: dict[tuple[str, str], Callable[[], Kernels]] = {
    ("integer", "cpu"): IntegerKernels,
    ("float32", "cpu"): ReferenceKernels,
    ("bfloat16", "cuda"): lambda: _on_gpu("cuda", torch.bfloat16),
    ("float32", "cuda"): lambda: _on_gpu("cuda", torch.float32),
    ("bfloat16", "hip"): lambda: _on_gpu("hip", torch.bfloat16),
    ("float32", "hip"): lambda: _on_gpu("hip", torch.float32),
}
"""The implementations, by (numerics, device)."""
