"""What the comparison knows of a server: how it is started for a row, and how the text is scored with it."""

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
    name: str
    bytes_per_weight: float
    """As it reads them in each step."""
    launch: Callable[[Row], Launch]
    """A server stays up for as long as the rows want the same."""
    perplexity: Callable[[str], float]
    """Of the text's tokens in the second half of each window, given the base URL of the running server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """Where and on what the servers compete."""

    directory: Path
    """For environments, made files and logs."""
    model: Model
    num_threads: int

    @property
    def made_models(self) -> Path:
        """For the model in other formats, under names that tell which of all models of its name it is."""
        return self.directory / "models" / f"{self.model.path.stem}-{self.model.digest[:8]}"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"


def served_perplexity(base_url: str) -> float:
    return perplexity_of(ScoredServer(base_url).logprobs(TEXT.read_text())).second_half
