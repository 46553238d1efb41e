"""`python -m bench peers`: who competes on what, in which order, and where the outcome goes."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bench.peers import llama_cpp, pagoda_serve, vllm_cpu
from bench.peers.comparison import Comparison, Standing
from bench.peers.contestant import Contestant, Grounds
from bench.peers.errors import PeerError
from bench.peers.outcome import Outcome, write
from bench.peers.roofline import model_size
from bench.peers.rows import rows
from bench.peers.run import Course, measure, say, score
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.store import ModelStore
from pagoda.rpc.sockets import default_home

FIELD = {peer.NAME: peer.contestants for peer in (pagoda_serve, llama_cpp, vllm_cpu)}
"""In the order of the table. To add a server, copy a neighbour."""
RESULTS = Path(__file__).parent.parent / "results"


def peers(
    model: Annotated[str, typer.Option(help="A name of the catalogue, or the path of a GGUF file.")] = DEFAULT_MODEL,
    environments: Annotated[
        Path, typer.Option(envvar="BENCH_PEERS", help="Where peers are installed, and found again the next time.")
    ] = Path(".peers"),
    output: Annotated[Path | None, typer.Option(help="Without suffix: .json, .md and .svg are written.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often to go through all servers; the median counts.")] = 1,
    scale: Annotated[
        float, typer.Option(help="Times the requests of each row, which has at least its concurrency.")
    ] = 1,
    only: Annotated[str, typer.Option(help="Only the rows that have this in their names, such as '1 at once'.")] = "",
    servers: Annotated[str, typer.Option(help="Those that take part, separated by commas.")] = ",".join(FIELD),
) -> None:
    """Measure Pagoda beside llama.cpp and vLLM: the same requests to each, one server after the other."""
    from bench.peers.ceilings import measure_ceilings  # It needs torch, which takes seconds to load.

    names = _known(servers)
    # Whoever stops the command stops its servers too, also without Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    stored = ModelStore(default_home()).pull(model, lambda progress: None)
    grounds = Grounds(directory=environments.absolute(), model=stored, num_threads=len(os.sched_getaffinity(0)))
    contestants, absent = gather(names, grounds)
    ceilings = measure_ceilings(grounds.num_threads, default_home() / "state" / "kernels")
    course = Course(
        rows=[row for row in rows(scale) if only in row.name],
        logs=grounds.logs,
        model=model_size(stored.config),
        ceilings=ceilings,
    )
    target = output or RESULTS / f"peers-{stored.name.replace('/', '-').replace(':', '-')}"
    for comparison in _compete(contestants, Comparison(standings=absent, measurements=()), course, rounds):
        # After each server, so that a run that is stopped has not been for nothing.
        outcome = Outcome(
            model_name=stored.name, quantization=stored.quantization, ceilings=ceilings, comparison=comparison
        )
        write(outcome, target)
    say(f"Written: {target}.json, .md and .svg")


def _known(servers: str) -> list[str]:
    names = [name.strip() for name in servers.split(",")]
    if unknown := sorted(set(names) - set(FIELD)):
        raise typer.BadParameter(f"unknown servers: {', '.join(unknown)}; there are {', '.join(FIELD)}")
    return names


def gather(names: Sequence[str], grounds: Grounds) -> tuple[list[Contestant], list[Standing]]:
    """Those that take part, and those that cannot, with the reason."""
    contestants: list[Contestant] = []
    absent: list[Standing] = []
    for name in names:
        try:
            contestants += FIELD[name](grounds)
        except PeerError as error:
            say(f"{name} does not take part: {error}")
            absent.append(Standing(server=name, failure=str(error)))
    return contestants, absent


def _compete(
    contestants: Sequence[Contestant], comparison: Comparison, course: Course, rounds: int
) -> Iterator[Comparison]:
    """What is known after each server's turn."""
    for round_number in range(rounds):
        for contestant in contestants:
            measured = (*comparison.measurements, *measure(contestant, course, round_number))
            comparison = replace(comparison, measurements=measured)
            if round_number == 0:
                comparison = replace(comparison, standings=(*comparison.standings, score(contestant, course)))
            yield comparison
