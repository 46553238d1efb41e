"""What a step of one worker may hold, and what was decided that it holds: values that never change."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import NamedTuple

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from scheduler.steps.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillLimits:
    """How prompts share a step."""

    max_num_partial: int = 8
    """Prompts that may be computed in part at the same time."""
    max_long_partial: int = 3
    """The long ones among them."""
    long_token_threshold: int = 0
    """A prompt with more tokens than this to compute is long; 0 is a 32nd of a step, at least 64."""

    def of_steps(self, max_step_tokens: int) -> "PrefillLimits":
        """With the threshold for steps of so many tokens."""
        return replace(self, long_token_threshold=self.long_token_threshold or max(64, max_step_tokens // 32))


DEFAULT_PREFILL_LIMITS = PrefillLimits().of_steps(512)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    max_step_tokens: int
    max_step_sequences: int
    watermark_pages: int
    """Admission leaves this many pages to the sequences that run already, unless none runs. Leases always leave them."""
    max_lease_steps: int = 1
    """Most steps that one plan may stand for."""
    reserved_places: int = 0
    """Of `max_step_sequences`: left to requests that have no sequence here yet. One of them is left to short prompts."""
    max_new_tokens: int = 1
    """Most that a step may promise to one sequence."""
    prefill: PrefillLimits = DEFAULT_PREFILL_LIMITS

    @property
    def equal_context(self) -> int:
        """A token of a prompt attends to so many others in about the time that all its other arithmetic takes. Only roughly: bigger
        steps are for devices and models where it is more."""
        return max(2_048, 4 * self.max_step_tokens)


class Chunk(NamedTuple):
    """Compute `num_tokens` tokens of a sequence, after appending new pages to its block table.

    The planner counts with the latest position at which they may start, `max_start`: it is where they start if all steps in
    flight bring as many tokens as they promised. The earliest one, `start`, is added when the pages are granted
    (`PlannedSequence`); the worker's chunk has both. They differ only where steps in flight promise several tokens.

    A tuple, like all that is made once per sequence and step: a frozen dataclass takes four times as long to make.
    """

    sequence: Sequence
    max_start: int
    num_tokens: int
    num_new_pages: int
    max_new_tokens: int
    """It promises at least one and at most so many; 0 samples nothing."""
    num_steps: int = 1
    """In a lease: how many of its steps."""

    @property
    def most_tokens(self) -> int:
        """How many it computes at most: of the new ones, all but the last are computed with those before."""
        return self.num_tokens + self.max_new_tokens - 1 if self.max_new_tokens else self.num_tokens

    @property
    def max_num_steps(self) -> int:
        """Steps like this one that lead at most to the sequence's end, and not past it."""
        return (self.sequence.max_length - self.sequence.length) // self.max_new_tokens

    @property
    def filled_blocks(self) -> Seq[BlockHash]:
        start, size = self.max_start, self.sequence.page_size
        return self.sequence.block_hashes[1 + start // size : 1 + (start + self.num_tokens) // size]

    def leased(self, num_steps: int) -> "Chunk":
        """Not past the sequence's end: a token that is its last is sampled and not computed."""
        num_steps = min(num_steps, self.max_num_steps)
        num_new_pages = self.sequence.num_new_pages(self.max_start + num_steps * self.max_new_tokens)
        return self._replace(num_new_pages=num_new_pages, num_steps=num_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A waiting sequence starts to run, its first blocks taken from the cache."""

    sequence: Sequence
    cached_pages: tuple[PageId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDecision:
    """Carried out in the order of the fields: pages freed by the first two may be granted to the last."""

    preempted: tuple[Sequence, ...]
    outgrown: tuple[Sequence, ...]
    """Alone, with all pages, and still too long: they end here."""
    admissions: tuple[Admission, ...]
    chunks: tuple[Chunk, ...]
    short_of_pages: Sequence | None = None
    """The first that was not admitted because too few pages are free."""

    @property
    def num_steps(self) -> int:
        """More than 1 is a lease: the worker goes on by itself."""
        return max((chunk.num_steps for chunk in self.chunks), default=1)
