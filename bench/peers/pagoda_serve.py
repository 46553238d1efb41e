"""Pagoda as a contestant: `pagoda serve` as users get it."""

import sys

from bench.peers.contestant import Contestant, Grounds, served_perplexity
from bench.peers.rows import Row
from bench.peers.serving import Launch

NAME = "Pagoda"


def contestants(grounds: Grounds) -> list[Contestant]:
    def launch(row: Row) -> Launch:
        command = (sys.executable, "-P", "-m", "pagoda.cli", "serve", "--model", str(grounds.model.path))
        return Launch(command=command, ready_path="/ready")

    # The default mode holds each weight as one int8.
    return [Contestant(name=NAME, bytes_per_weight=1.0, launch=launch, perplexity=served_perplexity)]
