"""Pagoda as a contestant: `pagoda serve` with its defaults."""

import sys

from bench.peers.contestant import Contestant, Grounds, served_perplexity
from bench.peers.rows import Row
from bench.peers.serving import Launch

NAME = "Pagoda"
BYTES_PER_FLOAT = 8.5 / 8


def contestants(grounds: Grounds) -> list[Contestant]:
    def launch(row: Row) -> Launch:
        command = (sys.executable, "-P", "-m", "pagoda.cli", "serve", "--model", str(grounds.model.path))
        return Launch(command=command, ready_path="/ready")

    # The default mode keeps integers and scales of the file, and stores floats as bytes with scales.
    file_share = grounds.model.size_bytes / grounds.model.num_parameters
    return [
        Contestant(
            name=NAME, bytes_per_weight=min(BYTES_PER_FLOAT, file_share), launch=launch, perplexity=served_perplexity
        )
    ]
