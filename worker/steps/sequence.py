"""The worker's state of each running sequence, and how a step changes it.

This module owns token ids, block tables and the rules for steps: a step that breaks one raises StepError, and never gives a
wrong answer. batch.py makes tensors from the chunks that `apply` returns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pagoda.wire.sampling import SamplingParams
from worker.errors import StepError
from worker.kernels.logit_adjustment import Adjustment
from worker.steps.step import NewSequence, ScheduledSequence, Step
from worker.steps.token_limits import TokenLimits


@dataclass(slots=True, eq=False, kw_only=True)
class RunningSequence:
    sequence_id: int
    attempt: int
    token_ids: list[int]
    """Prompt and generated tokens, including those sampled by this worker."""
    num_prompt_tokens: int
    sampling: SamplingParams
    sample_index: int
    adjustment: Adjustment | None = None
    """The change that the sampling parameters make to the logits; None if they change nothing."""
    limits: TokenLimits | None = None
    """The tokens that the sampling parameters allow or ban; None if they allow all."""
    block_table: list[int] = field(default_factory=list)
    is_stopped: bool = False
    """True if its last token has ended it. With two steps in flight, the scheduler may still schedule it once."""
    least_pending: int = 0
    """Minimum number of tokens that begun steps will add to `token_ids`."""
    most_pending: int = 0
    """Maximum number of tokens that begun steps will add to `token_ids`."""

    @classmethod
    def from_new(cls, new: NewSequence, vocab_size: int) -> "RunningSequence":
        return cls(
            sequence_id=new.sequence_id,
            attempt=new.attempt,
            token_ids=list(new.token_ids),
            num_prompt_tokens=new.num_prompt_tokens,
            sampling=new.sampling,
            sample_index=new.sample_index,
            adjustment=Adjustment.of(new.sampling, new.token_ids, new.num_prompt_tokens),
            limits=TokenLimits.of(new.sampling, vocab_size),
        )

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def least_known(self) -> int:
        """Minimum number of tokens that the executor knows once the begun steps are finished."""
        return len(self.token_ids) + self.least_pending

    @property
    def most_known(self) -> int:
        return len(self.token_ids) + self.most_pending

    def begin(self, chunk: "Chunk") -> None:
        """Expect the new tokens of a chunk that is about to be computed."""
        if chunk.is_sampled:
            self.least_pending += 1
            self.most_pending += chunk.max_new_tokens

    def settle(self, chunk: "Chunk") -> None:
        """Subtract a sampled chunk's tokens from the pending ones. Call this before its new tokens are appended.

        Raises StepError if the chunk's start was not in the scheduled range.
        """
        self.least_pending -= 1
        self.most_pending -= chunk.max_new_tokens
        start = len(self.token_ids) - chunk.num_tokens
        if not chunk.start <= start <= chunk.max_start:
            raise StepError(
                f"sequence {self.sequence_id}: scheduled to start at {chunk.start} to {chunk.max_start}, but was at {start}"
            )

    def append(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        if self.adjustment is not None:
            self.adjustment.count_output(token_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The tokens of a sequence that one step computes: `num_tokens` tokens from `start` on."""

    sequence: RunningSequence
    start: int
    max_start: int
    """Latest position at which the chunk may start. It exceeds `start`, the earliest position, only if a begun step may add
    several tokens; then only the executor knows the actual start."""
    num_tokens: int
    max_new_tokens: int
    """Maximum number of new tokens to sample after the chunk; at least one is sampled, unless this is 0."""
    num_forced: int = 0
    """Number of the last tokens of the chunk that its constraint forces. They are new, too."""

    @property
    def end(self) -> int:
        """Earliest end of the chunk."""
        return self.start + self.num_tokens

    @property
    def max_computed(self) -> int:
        """Maximum number of the sequence's tokens that have keys and values after this step: all but the last new one."""
        return self.max_start + self.num_tokens + max(0, self.max_new_tokens - 1)

    def with_forced(self, token_ids: Sequence[int]) -> "Chunk":
        """Return the chunk with tokens that the sequence must continue with, of which the engine does not know yet."""
        if not token_ids:
            return self
        sequence, adjustment = self.sequence, self.sequence.adjustment
        later = replace(
            sequence,
            token_ids=[*sequence.token_ids, *token_ids],
            adjustment=adjustment.after(token_ids) if adjustment is not None else None,
        )
        return replace(self, sequence=later, num_tokens=self.num_tokens + len(token_ids), num_forced=len(token_ids))

    @property
    def forced_ids(self) -> Sequence[int]:
        return self.sequence.token_ids[self.end - self.num_forced : self.end]

    @property
    def num_forced_rows(self) -> int:
        """Number of rows of logits that are needed only for the log-probabilities of forced tokens."""
        return self.num_forced if self.sequence.sampling.num_logprobs is not None else 0

    @property
    def is_sampled(self) -> bool:
        return self.max_new_tokens > 0

    @property
    def num_scored(self) -> int:
        """Number of leading tokens whose next token is a prompt token with a requested log-probability."""
        if self.sequence.sampling.num_prompt_logprobs is None:
            return 0
        return max(0, min(self.end, self.sequence.num_prompt_tokens - 1) - self.start)


class RunningSequences:
    """All sequences of one session, by id."""

    def __init__(self, *, page_size: int, num_pages: int, vocab_size: int) -> None:
        self._page_size = page_size
        self._num_pages = num_pages
        self._vocab_size = vocab_size
        self._by_id: dict[int, RunningSequence] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def clear(self) -> None:
        self._by_id.clear()

    def apply(self, step: Step) -> list[Chunk]:
        """Remove finished sequences, add new ones and grow block tables.

        Return the chunks to compute, in the step's order, without stopped sequences.
        """
        for sequence_id in step.finished_sequence_ids:
            self._by_id.pop(sequence_id, None)
        for new in step.new_sequences:
            self._add(new)
        if len({scheduled.sequence_id for scheduled in step.scheduled}) < len(step.scheduled):
            raise StepError(f"step {step.step_id} schedules a sequence twice")
        chunks = [self._chunk(scheduled) for scheduled in step.scheduled]
        return [chunk for chunk in chunks if chunk is not None]

    def _add(self, new: NewSequence) -> None:
        known = self._by_id.get(new.sequence_id)
        if known is not None and known.attempt >= new.attempt:
            raise StepError(
                f"sequence {new.sequence_id} is new with attempt {new.attempt}, but attempt {known.attempt} is running"
            )
        if not 0 < new.num_prompt_tokens <= len(new.token_ids):
            raise StepError(
                f"sequence {new.sequence_id} has {len(new.token_ids)} tokens: num_prompt_tokens must be at least 1 and at most"
                f" that many (got {new.num_prompt_tokens})"
            )
        self._check_vocabulary(new.sequence_id, "token ids", new.token_ids)
        for named in new.sampling.named_token_ids:
            self._check_vocabulary(new.sequence_id, "token ids in sampling", named)
        self._by_id[new.sequence_id] = RunningSequence.from_new(new, self._vocab_size)

    def _check_vocabulary(self, sequence_id: int, what: str, token_ids: Iterable[int]) -> None:
        highest = max(token_ids, default=0)
        if highest >= self._vocab_size:
            raise StepError(
                f"sequence {sequence_id}: {what} must be less than the vocabulary size of {self._vocab_size} (got {highest})"
            )

    def _chunk(self, scheduled: ScheduledSequence) -> Chunk | None:
        sequence = self._by_id.get(scheduled.sequence_id)
        if sequence is None:
            raise StepError(f"sequence {scheduled.sequence_id} is scheduled but unknown")
        sequence.block_table.extend(scheduled.new_page_ids)
        if sequence.is_stopped:
            return None
        start, max_start = _starts(sequence, scheduled)
        chunk = Chunk(
            sequence=sequence,
            start=start,
            max_start=max_start,
            num_tokens=scheduled.num_tokens,
            max_new_tokens=scheduled.max_new_tokens,
        )
        self._check_pages(chunk, scheduled.new_page_ids)
        sequence.begin(chunk)
        return chunk

    def _check_pages(self, chunk: Chunk, new_page_ids: tuple[int, ...]) -> None:
        sequence = chunk.sequence
        if any(page_id >= self._num_pages for page_id in new_page_ids):
            raise StepError(
                f"sequence {sequence.sequence_id}: page ids must be less than {self._num_pages} (got {max(new_page_ids)})"
            )
        if chunk.max_computed > len(sequence.block_table) * self._page_size:
            raise StepError(
                f"sequence {sequence.sequence_id}: {len(sequence.block_table)} pages of {self._page_size} tokens"
                f" cannot hold {chunk.max_computed} tokens"
            )


def _starts(sequence: RunningSequence, scheduled: ScheduledSequence) -> tuple[int, int]:
    """Return the earliest and the latest position at which the chunk may start.

    A sampled chunk ends with the last known token. Raises StepError if the plan's range certainly excludes that.
    """
    start, max_start, num_tokens = scheduled.start, scheduled.max_start, scheduled.num_tokens
    if num_tokens < 1:
        raise StepError(f"{_span(sequence, start, num_tokens)}, but at least one token is needed")
    num_known = sequence.most_known if scheduled.max_new_tokens else sequence.least_known
    if start + num_tokens > num_known:
        raise StepError(f"{_span(sequence, start, num_tokens)}, but only {num_known} are known")
    if not scheduled.max_new_tokens:
        return start, start
    least, most = sequence.least_known - num_tokens, sequence.most_known - num_tokens
    if max_start < max(start, least):
        raise StepError(
            f"{_span(sequence, max_start, num_tokens)} and sampled, but {sequence.least_known} are known:"
            " a sampled chunk must end with the last known token"
        )
    return max(start, least), min(max_start, most)


def _span(sequence: RunningSequence, start: int, num_tokens: int) -> str:
    return f"sequence {sequence.sequence_id}: tokens [{start}, {start + num_tokens}) are scheduled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The reason why a token ended its sequence: `stop_token_id` is None for the model's own end-of-generation token."""

    stop_token_id: int | None


def find_stop(sampling: SamplingParams, token_id: int, eos_token_ids: frozenset[int]) -> Stop | None:
    """Return the stop that a token causes, or None if the sequence continues.

    min_tokens is not checked, because before it the sampler cannot choose a token that ends the sequence.
    """
    if token_id in eos_token_ids and not sampling.ignore_eos:
        return Stop(stop_token_id=None)
    if token_id in sampling.stop_token_ids:
        return Stop(stop_token_id=token_id)
    return None
