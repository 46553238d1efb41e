"""The interface of a server in the comparison: how to start it for a row, and how to score the text with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.peers.rows import Row
from bench.peers.serving import Launch
from bench.quality.perplexity import perplexity_of
from bench.quality.served import ScoredServer
from bench.quality.text import TEXT
from pagoda.models.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A server in the comparison."""

    name: str
    bytes_per_weight: float
    """Bytes per weight that the server reads in each step."""
    launch: Callable[[Row], Launch]
    """Function that returns how to start the server for a row. Consecutive rows with equal launches share one process."""
    perplexity: Callable[[str], float]
    """Function that scores the second half of each window, given the running server's base URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """The model, threads and directory that all servers share."""

    directory: Path
    """Directory for environments, converted models and logs."""
    model: Model
    num_threads: int

    @property
    def made_models(self) -> Path:
        """Directory for the model in other formats. Its name contains the digest, because names of files are not unique."""
        return self.directory / "models" / f"{self.model.path.stem}-{self.model.digest[:8]}"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"


def served_perplexity(base_url: str) -> float:
    """Return the perplexity of the text's second halves, scored over the server's API."""
    return perplexity_of(ScoredServer(base_url).logprobs(TEXT.read_text())).second_half
