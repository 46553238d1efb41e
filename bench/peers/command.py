"""`python -m bench peers` compares Pagoda with llama.cpp and vLLM on one model."""

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
from pagoda.models.pull import open_puller
from pagoda.rpc.sockets import default_home

FIELD = {peer.NAME: peer.contestants for peer in (pagoda_serve, llama_cpp, vllm_cpu)}
"""Servers in the order of the table. A further one is a module like these with NAME and contestants()."""
RESULTS = Path(__file__).parent.parent / "results"


def peers(
    model: Annotated[str, typer.Option(help="Model name from the catalogue, or path of a GGUF file.")] = DEFAULT_MODEL,
    environments: Annotated[
        Path, typer.Option(envvar="BENCH_PEERS", help="Directory for the peers' installations, which later runs reuse.")
    ] = Path(".peers"),
    output: Annotated[Path | None, typer.Option(help="Path without suffix for the .json, .md and .svg files.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds through all servers. The median counts.")] = 1,
    scale: Annotated[
        float, typer.Option(help="Factor for each row's number of requests, which is at least its concurrency.")
    ] = 1,
    only: Annotated[
        str, typer.Option(help="Measure only rows whose name contains this text, such as '1 at once'.")
    ] = "",
    servers: Annotated[str, typer.Option(help="Servers to compare, separated by commas.")] = ",".join(FIELD),
) -> None:
    """Compare Pagoda with llama.cpp and vLLM: the same requests to each, one server after the other."""
    from bench.peers.ceilings import measure_ceilings  # torch takes seconds to load.

    names = _known(servers)
    # So that SIGTERM stops the servers too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    stored = open_puller(default_home()).ensure(model, lambda progress: None)
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
        # Written after each server, so that a run that is stopped keeps its results.
        outcome = Outcome(
            model_name=stored.name, quantization=stored.quantization, ceilings=ceilings, comparison=comparison
        )
        write(outcome, target)
    say(f"Wrote {target}.json, .md and .svg")


def _known(servers: str) -> list[str]:
    names = [name.strip() for name in servers.split(",")]
    if unknown := sorted(set(names) - set(FIELD)):
        raise typer.BadParameter(f"unknown servers: {', '.join(unknown)}; choose from {', '.join(FIELD)}")
    return names


def gather(names: Sequence[str], grounds: Grounds) -> tuple[list[Contestant], list[Standing]]:
    """Return the servers that can take part, and the others with the reason."""
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
    """Measure the servers one after the other, and yield the comparison so far after each."""
    for round_number in range(rounds):
        for contestant in contestants:
            measured = (*comparison.measurements, *measure(contestant, course, round_number))
            comparison = replace(comparison, measurements=measured)
            if round_number == 0:
                comparison = replace(comparison, standings=(*comparison.standings, score(contestant, course)))
            yield comparison
