"""What computes an engine's steps: the processor, or a device that can be given a step while it still computes the one before.

An executor sees chunks and answers with token ids. Which sequences there are, what ends one and what the scheduler is told is
the engine's business (engine.py).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pagoda.wire.logprobs import TokenLogprobs
from worker.steps.sequence import Chunk


class Computed(NamedTuple):
    token_ids: Sequence[tuple[int, ...]]
    """For each sampled chunk in order, its new tokens: 1 to `max_new_tokens`. Tokens behind one that ends the sequence may
    follow: the engine drops them."""
    logprobs: Sequence[tuple[TokenLogprobs, ...]]
    """For each sampled chunk in order: one for each of its new tokens, or none where nobody asked."""
    scored: Sequence[tuple[TokenLogprobs, ...]]
    """For each scored chunk in order: of the prompt tokens behind its first `num_scored` ones."""


class LaunchedStep(Protocol):
    def wait(self) -> Computed:
        """Block until the step is computed. Called once for each step, in the order of their launches."""


class DeferredStep:
    """Fits `LaunchedStep`, for an executor that computes a step where it is waited for."""

    def __init__(self, compute: Callable[[Sequence[Chunk]], Computed], chunks: Sequence[Chunk]) -> None:
        self._compute = compute
        self._chunks = chunks

    def wait(self) -> Computed:
        return self._compute(self._chunks) if self._chunks else Computed((), (), ())


class StepExecutor(Protocol):
    """Called on the engine's thread only."""

    @property
    def max_in_flight(self) -> int:
        """How many steps may be launched and not waited for: 1 where the processor itself computes, 2 on a device (the most,
        lease.py says why)."""

    @property
    def max_new_tokens(self) -> int:
        """The most new tokens that one step makes of one sequence."""

    def launch(self, chunks: Sequence[Chunk], forgotten: Sequence[int]) -> LaunchedStep:
        """Begin a step and return at once; first forget what is kept for the sequences with the ids `forgotten`.

        Where steps are in flight, a chunk's last input tokens, and how many there are, may be known to the executor alone: it
        keeps for each sequence where it is. It writes to no page that the sequence does not have.
        """

    def reset(self) -> None:
        """Forget all sequences and all steps in flight. Blocks until the latter no longer write to pages."""

    def check_usable(self) -> None:
        """Called after a step has failed. Raises DeviceLostError where no further step can be computed in this process."""
