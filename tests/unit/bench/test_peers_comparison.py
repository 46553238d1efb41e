"""Tests of a comparison's medians, ratios and best peers, and of the page that shows every server alike."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.peers.comparison import Comparison, Measurement, Standing
from bench.peers.markdown import render
from bench.peers.outcome import Outcome, write
from bench.peers.plot import draw
from bench.peers.roofline import Ceilings
from bench.report import Distribution, Result

CEILINGS = Ceilings(read_bytes_per_s=25e9, int8_operations_per_s=300e9)


def result(tokens_per_s: float, *, num_errors: int = 0) -> Result:
    milliseconds = Distribution(mean=20.0, p50=20.0, p90=30.0, p99=2500.0)
    return Result(
        workload="row",
        concurrency=1,
        request_rate=None,
        num_requests=8,
        num_errors=num_errors,
        first_error="503 no | worker" if num_errors else None,
        duration_s=1.0,
        output_tokens_per_s=tokens_per_s,
        total_tokens_per_s=tokens_per_s,
        cached_share=0.25,
        num_output_tokens=8,
        ttft_ms=milliseconds,
        itl_ms=milliseconds,
        tpot_ms=milliseconds,
        e2e_ms=milliseconds,
    )


def measured(server: str, tokens_per_s: float, *, row: str = "alone", round_number: int = 0) -> Measurement:
    return Measurement(
        row=row,
        server=server,
        round_number=round_number,
        result=result(tokens_per_s),
        of_roofline=tokens_per_s / 200,
        used_by_others=tokens_per_s / 1000,
    )


def comparison(*measurements: Measurement, fast_perplexity: float | None = 15.0) -> Comparison:
    standings = (
        Standing(server="Pagoda", perplexity=12.2),
        Standing(server="fast", perplexity=fast_perplexity),
        Standing(server="good", perplexity=12.3, command="serve --well"),
        Standing(server="absent", failure="pip install failed: no compiler"),
    )
    return Comparison(standings=standings, measurements=measurements)


def test_a_ratio_is_ours_over_theirs() -> None:
    compared = comparison(measured("Pagoda", 90), measured("fast", 120), measured("good", 60))
    assert compared.ratio("alone", "fast") == pytest.approx(0.75)
    assert compared.ratio("alone", "good") == pytest.approx(1.5)
    assert compared.ratio("alone", "absent") is None


def test_the_round_in_the_middle_counts() -> None:
    rounds = [measured("Pagoda", speed, round_number=number) for number, speed in enumerate((50, 90, 70))]
    lost = Measurement(row="alone", server="Pagoda", round_number=3, failure="it ended")
    cell = comparison(*rounds, lost).cell("alone", "Pagoda")
    assert cell is not None and cell.round_number == 2


def test_a_row_is_held_against_the_fastest_peer_of_our_quality() -> None:
    field = (measured("Pagoda", 90), measured("fast", 120), measured("good", 60))
    for perplexity, name in ((15.0, "good"), (12.31, "fast"), (None, "fast")):
        best = comparison(*field, fast_perplexity=perplexity).best_peer("alone")
        assert best is not None and best.server == name


def test_without_a_peer_there_is_none_to_be_held_against() -> None:
    assert comparison(measured("Pagoda", 90)).best_peer("alone") is None


def test_the_page_has_every_server_in_every_row_ahead_or_behind() -> None:
    failed = Measurement(row="busy", server="good", failure="exited with status 1: Illegal | instruction")
    compared = comparison(
        measured("Pagoda", 90), measured("fast", 120), measured("good", 60), measured("Pagoda", 300, row="busy"), failed
    )
    page = render(compared, CEILINGS, title="A model", made_by="python -m bench peers", plot="a.svg")
    alone, busy = page.split("\n## ")[-2:]
    for line in (
        "| Pagoda | 90.0 | 1.00 | 20 ms | 2.5 s | 20 ms | 25% | 0 of 8 | 45% |",
        "| fast | 120.0 | 0.75 | 20 ms | 2.5 s | 20 ms | 25% | 0 of 8 | 60% |",
        "| absent | did not take part |",
    ):
        assert line in alone
    assert "| good | exited with status 1: Illegal / instruction |" in busy
    assert "| alone | good | 1.50 |" in page and "| busy | – | – |" in page
    assert "pip install failed: no compiler" in page
    assert "other processes used at most 30% of the machine" in page


def test_errors_are_in_the_page_with_the_first_ones_words() -> None:
    partly = Measurement(row="alone", server="good", result=result(60, num_errors=2))
    page = render(comparison(measured("Pagoda", 90), partly), CEILINGS, title="", made_by="", plot="")
    assert "2 of 8: 503 no / worker |" in page


def test_bars_are_as_long_as_servers_are_fast() -> None:
    svg = ElementTree.fromstring(draw(comparison(measured("Pagoda", 90), measured("fast", 120))))
    widths = [bar.attrib["width"] for bar in svg.iter("{http://www.w3.org/2000/svg}rect")]
    bars = [float(width) for width in widths if width != "100%"]
    assert len(bars) == 4
    assert bars[0] / bars[1] == pytest.approx(0.75, abs=0.01)
    assert bars[2:] == [0, 0]


def test_the_outcome_is_written_as_numbers_page_and_plot(tmp_path: Path) -> None:
    compared = comparison(measured("Pagoda", 90), measured("good", 60))
    outcome = Outcome(model_name="a:1b", quantization="Q8_0", ceilings=CEILINGS, comparison=compared)
    write(outcome, tmp_path / "results" / "peers")
    numbers = json.loads((tmp_path / "results" / "peers.json").read_text())
    assert [one["result"]["output_tokens_per_s"] for one in numbers["results"]] == [90, 60]
    assert numbers["servers"][1]["perplexity"] == 15.0 and math.isclose(numbers["ceilings"]["read_bytes_per_s"], 25e9)
    assert "(peers.svg)" in (tmp_path / "results" / "peers.md").read_text()
    assert (tmp_path / "results" / "peers.svg").read_text().startswith("<svg")
