"""Checks of the machine: cores, instruction sets, memory and the models that fit in it, GPUs, disk space."""

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
from pagoda.models.memory_need import OTHER_TIERS_BYTES, PROCESS_BYTES
from pagoda.process.memory import CGROUP
from pagoda.process.resources import machine_available_bytes

PROC = Path("/proc")
# Instruction sets that matrix kernels use.
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
# The rest is for keys and values.
_SHARE_FOR_WEIGHTS = 0.9
_LEAST_BYTES = 1_000_000_000


def check_cpu(cpuinfo: Path = PROC / "cpuinfo") -> Finding:
    fields = _cpuinfo(cpuinfo)
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    features = [each for each in _FEATURES if each in flags]
    text = f"{name}; {', '.join(features) or 'instruction sets unknown'}"
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        return warning("cpu", f"{text}; no AVX2", "expect low speed; choose a small model.")
    return ok("cpu", text)


def check_threads(cgroup: Path = CGROUP) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    text = f"a worker uses {cores} of {os.cpu_count()} cores"
    if quota is not None and quota < cores:
        next_step = f"start workers with --threads {max(1, int(quota))} (PAGODA_WORKER_THREADS)."
        return warning("threads", f"{text}, but this container is limited to {quota:g}", next_step)
    return ok("threads", text)


def check_memory(available_bytes: int | None = None) -> Finding:
    available = machine_available_bytes() if available_bytes is None else available_bytes
    fits_bytes = int(available * _SHARE_FOR_WEIGHTS) - PROCESS_BYTES - OTHER_TIERS_BYTES
    if fits_bytes <= 0:
        return warning(
            "memory", f"{human.size(available)} available, too little for any model", "close other programs."
        )
    text = f"{human.size(available)} available, enough for model files of up to about {human.size(fits_bytes)}"
    if available < _LEAST_BYTES:
        return warning("memory", text, "close other programs, or set a small --kv-memory.")
    return ok("memory", text)


def check_gpu(torch_build: str | None, gpus: Sequence[str] | None = None) -> Finding:
    """Check the GPUs and what they need. `torch_build` is the result of setup.torch_build."""
    found = _gpus() if gpus is None else gpus
    if not found:
        return ok("gpu", "none found; workers compute on the CPU")
    device = "hip" if found[0].startswith("AMD") else "cuda"
    toolkit = {"cuda": "CUDA", "hip": "ROCm"}[device]
    text = ", ".join(found)
    if not (torch_build or "").startswith(toolkit):
        return warning(
            "gpu", f"{text}; torch was built without {toolkit}", f"install torch for {toolkit}: pytorch.org."
        )
    if importlib.util.find_spec("triton") is None:
        return warning("gpu", f"{text}; triton is missing", f"install it: {install_command('gpu')}.")
    return ok("gpu", f"{text}; to use it: pagoda serve --device {device}")


def check_disk(home: Path, needed_bytes: int) -> Finding:
    free = shutil.disk_usage(existing_parent(home)).free
    text = f"{human.size(free)} free in the directory of models"
    next_step = f"free some space, or move PAGODA_HOME; the default model needs {human.size(needed_bytes)}."
    if free < needed_bytes:
        return problem("disk", text, next_step)
    return warning("disk", text, next_step) if free < 10 * needed_bytes else ok("disk", text)


def existing_parent(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _cpuinfo(path: Path) -> dict[str, str]:
    """Return the fields of the first core."""
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
    """Return name and memory of each NVIDIA GPU that nvidia-smi lists, or one entry for AMD's driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ["AMD GPU"] if Path("/dev/kfd").exists() else []
    return [line.replace(",", " with", 1) for line in asked.stdout.splitlines() if line.strip()]
