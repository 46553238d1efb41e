"""The machine: cores, instruction sets, memory and what fits in it, GPUs."""

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pagoda.cli import human
from pagoda.cli.doctor.finding import Finding, ok, problem, warning
from pagoda.distribution import install_command
from pagoda.models.ollama_objects import parameter_size
from pagoda.process.resources import CGROUP, machine_available_bytes

PROC = Path("/proc")
# The families of instructions that matrix kernels use, the widest last.
_FEATURES = (
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "neon",
    "asimd",
    "asimddp",
    "sve",
)
# The rest is for keys and values, and for the processes themselves.
_SHARE_FOR_WEIGHTS = 0.6
# Of the integer mode: one for the matrices, more for embeddings and scales.
_BYTES_PER_PARAMETER = 1.5
_LEAST_BYTES = 1_000_000_000


def check_cpu(cpuinfo: Path = PROC / "cpuinfo") -> Finding:
    fields = _cpuinfo(cpuinfo)
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    features = [each for each in _FEATURES if each in flags]
    text = f"{name}; {', '.join(features) or 'instruction sets unknown'}"
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        return warning("cpu", f"{text}; without AVX2", "expect it to be slow; choose a small model.")
    return ok("cpu", text)


def check_threads(cgroup: Path = CGROUP) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    text = f"a worker uses {cores} of {os.cpu_count()} cores"
    if quota is not None and quota < cores:
        next_step = f"start workers with --threads {max(1, int(quota))} (PAGODA_WORKER_THREADS)."
        return warning("threads", f"{text}, but this container may use only {quota:g}", next_step)
    return ok("threads", text)


def check_memory(available_bytes: int | None = None) -> Finding:
    available = machine_available_bytes() if available_bytes is None else available_bytes
    fits = parameter_size(int(available * _SHARE_FOR_WEIGHTS / _BYTES_PER_PARAMETER), digits=2)
    text = f"{human.size(available)} available: models of up to about {fits} parameters fit"
    if available < _LEAST_BYTES:
        return warning("memory", text, "end other programs, or give --kv-memory a small size.")
    return ok("memory", text)


def check_gpu(torch_build: str | None, gpus: Sequence[str] | None = None) -> Finding:
    """What `torch_build` is, setup.py says. A GPU is used when the worker is told to."""
    found = _gpus() if gpus is None else gpus
    if not found:
        return ok("gpu", "none found; workers compute on the CPU")
    device = "hip" if found[0].startswith("AMD") else "cuda"
    toolkit = {"cuda": "CUDA", "hip": "ROCm"}[device]
    text = ", ".join(found)
    if not (torch_build or "").startswith(toolkit):
        return warning("gpu", f"{text}; torch cannot use it", f"install torch's build for {toolkit}: pytorch.org.")
    if importlib.util.find_spec("triton") is None:
        return warning("gpu", f"{text}; triton is missing", f"install it: {install_command('gpu')}.")
    return ok("gpu", f"{text}; used by PAGODA_WORKER_DEVICE={device} pagoda serve")


def check_disk(home: Path, needed_bytes: int) -> Finding:
    free = shutil.disk_usage(existing_parent(home)).free
    text = f"{human.size(free)} free where models are kept"
    next_step = f"make room, or set PAGODA_HOME to a larger disk; the default model needs {human.size(needed_bytes)}."
    if free < needed_bytes:
        return problem("disk", text, next_step)
    return warning("disk", text, next_step) if free < 10 * needed_bytes else ok("disk", text)


def existing_parent(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _cpuinfo(path: Path) -> dict[str, str]:
    """Of the first core."""
    try:
        lines = path.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _cpu_quota(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _gpus() -> list[str]:
    """Name and memory of NVIDIA's, where the driver's tool is there and answers."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ["AMD GPU"] if Path("/dev/kfd").exists() else []
    return [line.replace(",", " with", 1) for line in asked.stdout.splitlines() if line.strip()]
