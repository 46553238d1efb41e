"""Routing results as a Markdown table with one row per policy."""

from collections.abc import Sequence

from bench.report import Distribution
from bench.routing.simulation import RoutingResult


def markdown(results: Sequence[RoutingResult]) -> str:
    rows = [_row(result) for result in results]
    names = [column for column, _ in rows[0]]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell for _, cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _row(result: RoutingResult) -> list[tuple[str, str]]:
    return [
        ("workload", result.workload),
        ("load", result.load),
        ("policy", result.policy),
        ("output tok/s", f"{result.output_tokens_per_s:.1f}"),
        ("TTFT ms p50 / p90 / p99", _durations(result.ttft_ms)),
        ("ITL ms", _durations(result.itl_ms)),
        ("E2E ms", _durations(result.e2e_ms)),
        ("cached", f"{result.cached_share:.1%}"),
        ("busiest / mean", f"{result.imbalance:.2f}"),
        ("preempted", str(result.num_preemptions)),
        ("errors", f"{result.num_errors} of {result.num_requests}"),
    ]


def _durations(durations: Distribution) -> str:
    return f"{durations.p50:.0f} / {durations.p90:.0f} / {durations.p99:.0f}"
