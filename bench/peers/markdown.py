"""A comparison as Markdown: one table that sums up, then one per row with every server in it, whoever is ahead."""

from collections.abc import Iterable, Sequence

from bench.peers.comparison import SAME_QUALITY, Comparison, Measurement, Standing
from bench.peers.roofline import Ceilings

NONE = "–"


def render(comparison: Comparison, ceilings: Ceilings, *, title: str, made_by: str, plot: str) -> str:
    parts = [
        f"# {title}",
        f"Made by `{made_by}`: the same requests to each server, one server after the other.",
        f"![Output tokens per second]({plot})",
        _explain(ceilings),
        f"Between a server's warm-up and a row, other processes used at most {comparison.used_by_others:.0%} of the machine.",
        _summary(comparison),
        "## Servers",
        _servers(comparison),
        *(part for row in comparison.row_names for part in (f"## {row}", _row(comparison, row))),
    ]
    return "\n\n".join(parts) + "\n"


def _explain(ceilings: Ceilings) -> str:
    return (
        f"Ratios are Pagoda's output tokens per second over the other server's. A row is held against the fastest peer whose "
        f"perplexity is at most {SAME_QUALITY:g} times Pagoda's. The roofline: a decode step takes at least as long as its "
        f"bytes (weights in the server's form, 16-bit keys and values) at {ceilings.read_bytes_per_s / 1e9:.1f} GB/s, and as "
        f"its operations at {ceilings.int8_operations_per_s / 1e9:.0f} G int8 operations a second, both measured in this run; "
        f"prompts as their operations."
    )


def _summary(comparison: Comparison) -> str:
    def line(row: str) -> list[str]:
        best = comparison.best_peer(row)
        ours = comparison.ratio(row, best.server) if best else None
        return [row, best.server if best else NONE, _ratio(ours)]

    return _table(("row", "best peer of this quality", "Pagoda / it"), map(line, comparison.row_names))


def _servers(comparison: Comparison) -> str:
    def line(standing: Standing) -> list[str]:
        perplexity = NONE if standing.perplexity is None else f"{standing.perplexity:.3f}"
        said = f"`{standing.command}`" if standing.command else NONE
        return [standing.server, perplexity, _cell(standing.failure or ""), said]

    return _table(("server", "perplexity", "what went wrong", "started with"), map(line, comparison.standings))


def _row(comparison: Comparison, row: str) -> str:
    heads = ("server", "tok/s", "Pagoda / it", "TTFT p50", "TTFT p99", "TPOT p50", "cached", "errors", "of roofline")
    return _table(heads, (_row_line(comparison, row, standing.server) for standing in comparison.standings))


def _row_line(comparison: Comparison, row: str, server: str) -> list[str]:
    cell = comparison.cell(row, server)
    if cell is None or cell.result is None:
        return [server, _cell(cell.failure or "") if cell else "did not take part", *[NONE] * 7]
    return [server, *_numbers(cell, comparison.ratio(row, server))]


def _numbers(cell: Measurement, ratio: float | None) -> list[str]:
    assert cell.result is not None
    result = cell.result
    errors = f"{result.num_errors} of {result.num_requests}"
    return [
        f"{result.output_tokens_per_s:.1f}",
        _ratio(ratio),
        _duration(result.ttft_ms.p50),
        _duration(result.ttft_ms.p99),
        _duration(result.tpot_ms.p50),
        f"{result.cached_share:.0%}",
        f"{errors}: {_cell(result.first_error)}" if result.first_error else errors,
        NONE if cell.of_roofline is None else f"{cell.of_roofline:.0%}",
    ]


def _ratio(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}"


def _duration(milliseconds: float) -> str:
    if milliseconds != milliseconds:
        return NONE
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


def _cell(text: str, limit: int = 400) -> str:
    """Whatever a process said, on one line and without what ends a cell."""
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= limit else f"… {line[-limit:]}"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
