"""The results of a comparison, and what is derived from them: medians over rounds, ratios, each row's best peer."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from bench.peers.pagoda_serve import NAME as OURS
from bench.report import Result

SAME_QUALITY = 1.01
"""Largest perplexity, relative to ours, with which a peer counts as having the same quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The result of one server in one row, or the reason that there is none."""

    row: str
    server: str
    round_number: int = 0
    result: Result | None = None
    of_roofline: float | None = None
    used_by_others: float | None = None
    """Share of the machine that other processes used just before, while the server was idle."""
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A server, with its quality and its command."""

    server: str
    bytes_per_weight: float | None = None
    command: str | None = None
    perplexity: float | None = None
    failure: str | None = None
    """Reason that the server takes part in no row or has no perplexity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    standings: Sequence[Standing]
    measurements: Sequence[Measurement]

    @property
    def row_names(self) -> list[str]:
        return list(dict.fromkeys(measurement.row for measurement in self.measurements))

    @property
    def used_by_others(self) -> float:
        """The largest share of the machine that other processes used before any measurement."""
        return max((one.used_by_others for one in self.measurements if one.used_by_others is not None), default=0.0)

    def cell(self, row: str, server: str) -> Measurement | None:
        """Return the round with the median throughput, or a failure if no round has a result."""
        cells = [one for one in self.measurements if (one.row, one.server) == (row, server)]
        measured = {tokens_per_s(one): one for one in cells if one.result is not None}
        if measured:
            return measured[median_low(measured)]
        return cells[0] if cells else None

    def ratio(self, row: str, server: str) -> float | None:
        """Return our throughput divided by the server's."""
        ours, theirs = self.cell(row, OURS), self.cell(row, server)
        if ours is None or theirs is None or not tokens_per_s(ours) or not tokens_per_s(theirs):
            return None
        return tokens_per_s(ours) / tokens_per_s(theirs)

    def best_peer(self, row: str) -> Measurement | None:
        """Return the fastest peer of at least our quality in a row."""
        cells = (self.cell(row, standing.server) for standing in self.standings if self.competes(standing))
        return max((cell for cell in cells if cell and tokens_per_s(cell)), key=tokens_per_s, default=None)

    def competes(self, standing: Standing) -> bool:
        """Return true if a peer's quality equals ours. A missing score counts as equal, so no peer is left out for it."""
        ours = next((one.perplexity for one in self.standings if one.server == OURS), None)
        if standing.server == OURS:
            return False
        return ours is None or standing.perplexity is None or standing.perplexity <= ours * SAME_QUALITY


def tokens_per_s(measurement: Measurement) -> float:
    """Return the output tokens per second; 0 if there is no result."""
    return measurement.result.output_tokens_per_s if measurement.result is not None else 0.0
