"""The measured quality as Markdown for people and as JSON for comparison."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.quality.comparison import Quality
from bench.quality.text import BEGINNING, TEXT, WINDOW
from bench.report import machine, wrap_prose

COLUMNS = "| perplexity | change from float32 | mean KL | ten worst KL | largest KL | same best token | second halves |"
RULE = "|---|---|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    model: str
    digest: str
    quantization: str
    modes: Sequence[Quality]
    """Qualities of float32, of the modes and of llama.cpp's emulated formats, in this order."""
    llama_perplexity: dict[str, float]
    """Perplexity that llama.cpp prints for its own arithmetic, over second halves, by the weights' format."""
    considered: Sequence[Quality]


def markdown(report: Report) -> str:
    """Return the report as a Markdown page."""
    num_tokens = report.modes[0].num_tokens
    parts = [
        f"# Quality of the numeric modes: {report.model}, {report.quantization} file",
        wrap_prose(
            f"`{_command()}` scored {num_tokens:,} tokens of {TEXT.name} in windows of {WINDOW}: all tokens except each "
            "window's first. float32 computes with the file's unchanged weights. KL is the divergence "
            "KL(float32 ‖ mode), in nats per token; the ten worst positions, of these windows and of 16 beginnings of "
            f"{BEGINNING} tokens, show the worst case. ± is one standard error, from the spread over the windows. The "
            "last column scores only tokens with at least half a window before them, as llama-perplexity does."
        ),
        _table("mode", report.modes, report.llama_perplexity),
    ]
    if report.considered:
        parts += [
            "## Formats considered",
            wrap_prose(
                "Each label names the weights, then the activations. Activations have one scale per token unless a block "
                "size is given. Rotated means multiplied by a Hadamard matrix of that size before rounding."
            ),
            _table("emulated in float32", report.considered, {}),
        ]
    return "\n\n".join(parts) + "\n"


def write(report: Report, path: Path) -> None:
    """Write `path`.md and `path`.json."""
    path.with_name(path.name + ".md").write_text(markdown(report))
    numbers = {"machine": machine(), "command": _command(), **asdict(report)}
    path.with_name(path.name + ".json").write_text(json.dumps(numbers, indent=2) + "\n")


def _table(title: str, rows: Sequence[Quality], llama_perplexity: dict[str, float]) -> str:
    lines = [f"| {title} {COLUMNS}", RULE, *map(_row, rows)]
    lines += [f"| llama.cpp itself, {kind} | | | | | | | {value:.3f} |" for kind, value in llama_perplexity.items()]
    return "\n".join(lines)


def _row(quality: Quality) -> str:
    change = f"{quality.perplexity_change:+.2%} ± {quality.perplexity_change_error:.2%}"
    return (
        f"| {quality.name} | {quality.perplexity:.3f} | {change} | {quality.mean_kl:.4f}"
        f" | {quality.ten_largest_kl:.4f} | {quality.largest_kl:.4f} | {quality.top1:.1%}"
        f" | {quality.perplexity_second_half:.3f} |"
    )


def _command() -> str:
    return shlex.join(["python", "-m", "bench.quality", *sys.argv[1:]])
