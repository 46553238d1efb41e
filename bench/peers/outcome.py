"""The files of a comparison: numbers as JSON, a Markdown page, a plot. They are rewritten after each server."""

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.peers.comparison import Comparison
from bench.peers.markdown import render
from bench.peers.plot import draw
from bench.peers.roofline import Ceilings
from bench.report import command_line, machine, write_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    model_name: str
    quantization: str
    ceilings: Ceilings
    comparison: Comparison


def write(outcome: Outcome, target: Path) -> None:
    """Write the three files. `target` has no suffix."""
    target.parent.mkdir(parents=True, exist_ok=True)
    plot = target.with_suffix(".svg")
    plot.write_text(draw(outcome.comparison))
    target.with_suffix(".md").write_text(
        render(outcome.comparison, outcome.ceilings, title=_title(outcome), made_by=command_line(), plot=plot.name)
    )
    about = {
        "model": outcome.model_name,
        "quantization": outcome.quantization,
        "ceilings": asdict(outcome.ceilings),
        "servers": [asdict(standing) for standing in outcome.comparison.standings],
    }
    write_numbers(about, outcome.comparison.measurements, target.with_suffix(".json"))


def _title(outcome: Outcome) -> str:
    on = machine()
    return (
        f"{outcome.model_name} ({outcome.quantization}) on {on['num_cpus']} cores, {on['cpu']}, {datetime.date.today()}"
    )
