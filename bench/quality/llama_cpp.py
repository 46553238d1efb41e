"""llama.cpp's own measurement of its arithmetic: llama-perplexity on the same text."""

import re
import subprocess
from pathlib import Path

from bench.quality.text import WINDOW

ESTIMATE = re.compile(r"Final estimate: PPL = ([0-9.]+)")


class LlamaCppError(Exception):
    """Failure of one of llama.cpp's programs. The message ends with its output."""


def llama_perplexity(directory: Path, model: Path, text: Path, threads: int) -> float:
    """Return the perplexity over the second halves of windows. `directory` contains llama.cpp's programs."""
    printed = _run(directory / "llama-perplexity", "-m", model, "-f", text, "-c", WINDOW, "-t", threads)
    found = ESTIMATE.search(printed)
    if found is None:
        raise LlamaCppError(f"llama-perplexity printed no estimate: {printed[-500:]}")
    return float(found[1])


def requantize(directory: Path, model: Path, target: Path, name: str = "Q8_0") -> None:
    """Convert the weights to another format. Q8_0 is llama.cpp's fastest format of this quality."""
    _run(directory / "llama-quantize", "--allow-requantize", model, target, name)


def _run(program: Path, *arguments: str | Path | int) -> str:
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if ran.returncode != 0:
        raise LlamaCppError(f"{program.name} exited with status {ran.returncode}: {ran.stderr[-500:]}")
    return ran.stdout + ran.stderr
