"""A comparison as a Markdown page: a summary, then one table per row with every server, faster or slower."""

from collections.abc import Iterable, Sequence

from bench.peers.comparison import SAME_QUALITY, Comparison, Measurement, Standing
from bench.peers.roofline import Ceilings
from bench.report import wrap_prose

NONE = "–"


def render(comparison: Comparison, ceilings: Ceilings, *, title: str, made_by: str, plot: str) -> str:
    parts = [
        f"# {title}",
        wrap_prose(f"Made by `{made_by}`. Each server got the same requests, one server after the other."),
        f"![Output tokens per second]({plot})",
        _explain(ceilings),
        wrap_prose(
            f"Between a server's warm-up and its measurement, other processes used at most {comparison.used_by_others:.0%} "
            "of the machine."
        ),
        _summary(comparison),
        "## Servers",
        _servers(comparison),
        "The commands for the first row, without the port:",
        _commands(comparison),
        *(part for row in comparison.row_names for part in (f"## {row}", _row(comparison, row))),
    ]
    return "\n\n".join(parts) + "\n"


def _explain(ceilings: Ceilings) -> str:
    read, compute = ceilings.read_bytes_per_s / 1e9, ceilings.int8_operations_per_s / 1e9
    ratios = wrap_prose(
        "A ratio is Pagoda's output tokens per second divided by the other server's. The summary compares each row with the "
        f"fastest peer of equal quality: its perplexity is at most {SAME_QUALITY:g} times Pagoda's."
    )
    roofline = wrap_prose(
        f"The roofline is the throughput at the machine's limits: {read:.1f} GB/s and {compute:.0f} G int8 operations per "
        "second, both measured in this run. A decode step takes at least as long as reading its bytes (the server's weights, "
        "16-bit keys and values), and as its operations. A prompt takes at least as long as its operations."
    )
    return f"{ratios}\n\n{roofline}"


def _summary(comparison: Comparison) -> str:
    def line(row: str) -> list[str]:
        best = comparison.best_peer(row)
        ours = comparison.ratio(row, best.server) if best else None
        return [row, best.server if best else NONE, _ratio(ours)]

    return _table(("row", "fastest peer of equal quality", "Pagoda / peer"), map(line, comparison.row_names))


def _servers(comparison: Comparison) -> str:
    def line(standing: Standing) -> list[str]:
        perplexity = NONE if standing.perplexity is None else f"{standing.perplexity:.3f}"
        return [standing.server, perplexity, _cell(standing.failure or NONE)]

    return _table(("server", "perplexity", "error"), map(line, comparison.standings))


def _commands(comparison: Comparison) -> str:
    commands = [f"{standing.server}: {standing.command}" for standing in comparison.standings if standing.command]
    return "\n".join(("```", *commands, "```"))


def _row(comparison: Comparison, row: str) -> str:
    heads = (
        "server",
        "tok/s",
        "Pagoda / server",
        "TTFT p50",
        "TTFT p99",
        "TPOT p50",
        "cached",
        "errors",
        "of roofline",
    )
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
    """Return the end of a process's output on one line, without characters that end a cell."""
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= limit else f"… {line[-limit:]}"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
