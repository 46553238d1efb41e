"""The interface of an executor, which computes an engine's steps: on the processor, or on a device.

A device can accept a step while it still computes the previous one. An executor receives chunks and returns token ids. The
engine keeps the sequences, decides what ends one, and makes the results for the scheduler (engine.py).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pagoda.wire.logprobs import TokenLogprobs
from worker.steps.sequence import Chunk


class Computed(NamedTuple):
    token_ids: Sequence[tuple[int, ...]]
    """New tokens of each sampled chunk, in order: 1 to `max_new_tokens`. The engine drops those after a token that ends the
    sequence."""
    logprobs: Sequence[tuple[TokenLogprobs, ...]]
    """Log-probabilities of each sampled chunk, in order: one for each new token, or none if they were not requested."""
    scored: Sequence[tuple[TokenLogprobs, ...]]
    """Log-probabilities of each scored chunk, in order: those of the prompt tokens after each of its first `num_scored`."""
    failed_ids: frozenset[int] = frozenset()
    """Sequences whose grammar has failed, so that their new token can only end them."""


class LaunchedStep(Protocol):
    def wait(self) -> Computed:
        """Block until the step is computed and return its tokens. Called once for each step, in launch order."""


class DeferredStep:
    """A `LaunchedStep` for an executor that computes a step only when `wait` is called."""

    def __init__(self, compute: Callable[[Sequence[Chunk]], Computed], chunks: Sequence[Chunk]) -> None:
        self._compute = compute
        self._chunks = chunks

    def wait(self) -> Computed:
        return self._compute(self._chunks) if self._chunks else Computed((), (), ())


class StepExecutor(Protocol):
    """The interface of an executor. Called on the engine's thread only."""

    @property
    def max_in_flight(self) -> int:
        """Maximum number of steps that are launched and not waited for: 1 on the processor, 2 on a device.

        lease.py says why it is not more than 2.
        """

    @property
    def max_new_tokens(self) -> int:
        """Maximum number of new tokens that one step makes for one sequence."""

    def launch(self, chunks: Sequence[Chunk], forgotten: Sequence[int]) -> LaunchedStep:
        """Begin a step and return immediately; first drop the state of the sequences with the ids `forgotten`.

        While steps are in flight, only the executor may know a chunk's last input tokens and their number, so it keeps the
        position of each sequence. It writes only to pages of the sequence.
        """

    def reset(self) -> None:
        """Forget all sequences and all steps in flight. Blocks until those steps no longer write to pages."""

    def check_usable(self) -> None:
        """Raise DeviceLostError if this process can compute no further step. Called after a step has failed."""
