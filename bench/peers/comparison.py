"""What came out of a comparison, and what follows from it: medians over rounds, ratios, and which peer a row is held against.

Pure: knows nothing about how the numbers were measured or how they are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from bench.peers.pagoda_serve import NAME as OURS
from bench.report import Result

SAME_QUALITY = 1.01
"""A peer competes in quality too if its perplexity is at most this many times ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row of one server; either the result or the reason that there is none."""

    row: str
    server: str
    round_number: int = 0
    result: Result | None = None
    of_roofline: float | None = None
    used_by_others: float | None = None
    """Share of the machine that was busy just before, when the server waited for the row."""
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A server as a whole."""

    server: str
    bytes_per_weight: float | None = None
    command: str | None = None
    perplexity: float | None = None
    failure: str | None = None
    """Why it takes part in no row, or has no perplexity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    standings: Sequence[Standing]
    measurements: Sequence[Measurement]

    @property
    def row_names(self) -> list[str]:
        return list(dict.fromkeys(measurement.row for measurement in self.measurements))

    @property
    def used_by_others(self) -> float:
        """At worst. Servers that wait for each other's threads lose most on a machine that is not theirs."""
        return max((one.used_by_others for one in self.measurements if one.used_by_others is not None), default=0.0)

    def cell(self, row: str, server: str) -> Measurement | None:
        """The round in the middle by throughput; a failure only if no round has a result."""
        cells = [one for one in self.measurements if (one.row, one.server) == (row, server)]
        measured = {tokens_per_s(one): one for one in cells if one.result is not None}
        if measured:
            return measured[median_low(measured)]
        return cells[0] if cells else None

    def ratio(self, row: str, server: str) -> float | None:
        """Our throughput over the server's: above 1 where we are faster."""
        ours, theirs = self.cell(row, OURS), self.cell(row, server)
        if ours is None or theirs is None or not tokens_per_s(ours) or not tokens_per_s(theirs):
            return None
        return tokens_per_s(ours) / tokens_per_s(theirs)

    def best_peer(self, row: str) -> Measurement | None:
        """The fastest that answers as well as we do."""
        cells = (self.cell(row, standing.server) for standing in self.standings if self.competes(standing))
        return max((cell for cell in cells if cell and tokens_per_s(cell)), key=tokens_per_s, default=None)

    def competes(self, standing: Standing) -> bool:
        """Unknown quality counts as good: nobody leaves the field because a score is missing."""
        ours = next((one.perplexity for one in self.standings if one.server == OURS), None)
        if standing.server == OURS:
            return False
        return ours is None or standing.perplexity is None or standing.perplexity <= ours * SAME_QUALITY


def tokens_per_s(measurement: Measurement) -> float:
    """0 where nothing was measured."""
    return measurement.result.output_tokens_per_s if measurement.result is not None else 0.0
