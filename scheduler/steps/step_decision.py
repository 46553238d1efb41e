"""The limits of a worker's step, and the decision of what it computes, as immutable values."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import NamedTuple

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from scheduler.steps.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillLimits:
    """The limits of prompts that share a step."""

    max_num_partial: int = 8
    """Maximum number of partly computed prompts."""
    max_long_partial: int = 3
    """Maximum number of long prompts among them."""
    long_token_threshold: int = 0
    """Number of tokens to compute above which a prompt is long. 0 means a 32nd of a step, at least 64."""

    def of_steps(self, max_step_tokens: int) -> "PrefillLimits":
        """Return the limits with the threshold for steps of `max_step_tokens` tokens."""
        return replace(self, long_token_threshold=self.long_token_threshold or max(64, max_step_tokens // 32))


DEFAULT_PREFILL_LIMITS = PrefillLimits().of_steps(512)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    max_step_tokens: int
    max_step_sequences: int
    watermark_pages: int
    """Pages that admissions leave free for the running sequences, unless none runs. Leases always leave them free."""
    max_lease_steps: int = 1
    """Maximum number of steps of a lease."""
    reserved_places: int = 0
    """Part of `max_step_sequences` for calls that have no sequence here yet; one of these places is for short prompts."""
    max_new_tokens: int = 1
    """Maximum number of new tokens that a step may promise to one sequence."""
    prefill: PrefillLimits = DEFAULT_PREFILL_LIMITS

    @property
    def equal_context(self) -> int:
        """Number of tokens to which a prompt token attends in about the time of all its other arithmetic. A rough value: larger
        steps are for devices and models with more."""
        return max(2_048, 4 * self.max_step_tokens)


class Chunk(NamedTuple):
    """A part of a sequence to compute in a step: `num_tokens` tokens, after new pages are appended to its block table.

    The planner uses the latest possible start, `max_start`, which is right if all steps in flight return the promised maximum of
    tokens. The earliest one, `start`, is added when the pages are granted (`PlannedSequence`); the worker's chunk has both. They
    differ only if steps in flight promise several tokens.

    It is a tuple because one is made per sequence and step, and a frozen dataclass takes four times as long to make.
    """

    sequence: Sequence
    max_start: int
    num_tokens: int
    num_new_pages: int
    max_new_tokens: int
    """Maximum number of new tokens; the step returns at least one. 0 samples nothing."""
    num_steps: int = 1
    """Number of the lease's steps in which it takes part; 1 without a lease."""

    @property
    def most_tokens(self) -> int:
        """Maximum number of tokens that it computes, including all new tokens but the last."""
        return self.num_tokens + self.max_new_tokens - 1 if self.max_new_tokens else self.num_tokens

    @property
    def max_num_steps(self) -> int:
        """Maximum number of steps like this one that cannot lead past the sequence's end."""
        return (self.sequence.max_length - self.sequence.length) // self.max_new_tokens

    @property
    def filled_blocks(self) -> Seq[BlockHash]:
        start, size = self.max_start, self.sequence.page_size
        return self.sequence.block_hashes[1 + start // size : 1 + (start + self.num_tokens) // size]

    def leased(self, num_steps: int) -> "Chunk":
        """Return the chunk of a lease with `num_steps` steps, or fewer if the sequence ends before."""
        num_steps = min(num_steps, self.max_num_steps)
        num_new_pages = self.sequence.num_new_pages(self.max_start + num_steps * self.max_new_tokens)
        return self._replace(num_new_pages=num_new_pages, num_steps=num_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The admission of a waiting sequence, with the cached pages of its first blocks."""

    sequence: Sequence
    cached_pages: tuple[PageId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDecision:
    """The decision of a step. It is carried out in the order of the fields: the last may use pages that the first have freed."""

    preempted: tuple[Sequence, ...]
    outgrown: tuple[Sequence, ...]
    """Sequences that are alone on the worker, have all its pages and are still too long: they end here."""
    admissions: tuple[Admission, ...]
    chunks: tuple[Chunk, ...]
    short_of_pages: Sequence | None = None
    """The first sequence that was not admitted because too few pages are free."""

    @property
    def num_steps(self) -> int:
        """Number of steps. More than 1 makes it a lease."""
        return max((chunk.num_steps for chunk in self.chunks), default=1)
