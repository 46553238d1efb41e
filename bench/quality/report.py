"""The measured quality as Markdown for people and JSON for comparison.

Knows nothing about how it was measured.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.quality.comparison import Quality
from bench.quality.text import TEXT, WINDOW
from bench.report import machine

COLUMNS = "| perplexity | against float32 | mean KL | same best token | second halves |"
RULE = "|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    model: str
    digest: str
    quantization: str
    modes: Sequence[Quality]
    """float32 first."""
    llama_perplexity: dict[str, float]
    """By the weights' format, what llama.cpp prints for its own arithmetic: over second halves."""
    considered: Sequence[Quality]


def markdown(report: Report) -> str:
    num_tokens = report.modes[0].num_tokens
    parts = [
        f"# Quality of the numeric modes: {report.model}, {report.quantization} file",
        f"`{_command()}`: {num_tokens:,} tokens in windows of {WINDOW} of {TEXT.name}, all but each window's first. float32"
        " computes with the file's weights as they are; KL is of its distribution from the mode's, in nats per token;"
        " ± is one standard error, from the windows. The last column scores only tokens with half a window before them,"
        " as llama-perplexity does.",
        _table("mode", report.modes, report.llama_perplexity),
    ]
    if report.considered:
        parts += ["## Formats considered", _table("emulated in float32", report.considered, {})]
    return "\n\n".join(parts) + "\n"


def write(report: Report, path: Path) -> None:
    """As `path`.md and `path`.json."""
    path.with_name(path.name + ".md").write_text(markdown(report))
    numbers = {"machine": machine(), "command": _command(), **asdict(report)}
    path.with_name(path.name + ".json").write_text(json.dumps(numbers, indent=2) + "\n")


def _table(title: str, rows: Sequence[Quality], llama_perplexity: dict[str, float]) -> str:
    lines = [f"| {title} {COLUMNS}", RULE, *map(_row, rows)]
    lines += [f"| llama.cpp itself, {kind} | | | | | {value:.3f} |" for kind, value in llama_perplexity.items()]
    return "\n".join(lines)


def _row(quality: Quality) -> str:
    change = f"{quality.perplexity_change:+.2%} ± {quality.perplexity_change_error:.2%}"
    return (
        f"| {quality.name} | {quality.perplexity:.3f} | {change} | {quality.mean_kl:.4f} | {quality.top1:.1%}"
        f" | {quality.perplexity_second_half:.3f} |"
    )


def _command() -> str:
    return shlex.join(["python", "-m", "bench.quality", *sys.argv[1:]])
