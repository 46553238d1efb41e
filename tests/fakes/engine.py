"""An instant engine: the next token is arithmetic on the sequence's token ids. No torch, no model.

It follows the rules of the real engine and one more: each page remembers what was written to it, so a step that reads a page
with other content (granted twice, freed too early, a false prefix hit) is an error.
"""

from collections.abc import Iterable, Sequence

from pagoda.wire.logprobs import TokenLogprobs
from tests.fakes.executors import Wrap, plain
from worker.errors import StepError
from worker.steps.engine import Engine
from worker.steps.executor import Computed, DeferredStep
from worker.steps.sequence import Chunk, RunningSequence

NUM_BYTES = 256
VOCAB_SIZE = NUM_BYTES + 3
EOS_TOKEN_ID = NUM_BYTES
_FIRST_PRINTABLE, _NUM_PRINTABLE = 32, 95
_CHAIN_FACTOR, _CHAIN_MODULUS = 1_000_003, (1 << 61) - 1


def next_token(token_ids: Sequence[int]) -> int:
    """Return a printable ASCII character, which is text for a byte tokenizer."""
    return _FIRST_PRINTABLE + (sum(token_ids) * 31 + len(token_ids)) % _NUM_PRINTABLE


def continuation(token_ids: Sequence[int], count: int) -> list[int]:
    """Return what an instant engine generates after these tokens if nothing ends it."""
    tokens = list(token_ids)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(token_ids) :]


class FakeExecutor:
    """An instant `worker.steps.executor.StepExecutor`. With `eos_after`, a sequence ends after that many generated tokens."""

    max_in_flight = 1
    max_new_tokens = 1

    def __init__(
        self, *, num_pages: int, page_size: int, eos_token_ids: Iterable[int], eos_after: int | None = None
    ) -> None:
        self._page_size = page_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._eos_after = eos_after
        self._slots = [0] * (num_pages * page_size)
        self._chains: dict[int, list[int]] = {}
        """Hash of all tokens up to a position, by sequence and position."""

    def reset(self) -> None:
        self._chains.clear()

    def check_usable(self) -> None:
        pass

    def launch(self, chunks: Sequence[Chunk], forgotten: Sequence[int]) -> DeferredStep:
        for sequence_id in forgotten:
            self._chains.pop(sequence_id, None)
        return DeferredStep(self.compute, chunks)

    def compute(self, chunks: Sequence[Chunk]) -> Computed:
        for chunk in chunks:
            self._compute(chunk)
        sequences = [chunk.sequence for chunk in chunks if chunk.is_sampled]
        token_ids = list(map(self._choose, sequences))
        logprobs = [_logprobs(sequence, token_id) for sequence, token_id in zip(sequences, token_ids, strict=True)]
        return Computed([(token_id,) for token_id in token_ids], logprobs, ())

    def _compute(self, chunk: Chunk) -> None:
        chain = self._chains.setdefault(chunk.sequence.sequence_id, [])
        for token_id in chunk.sequence.token_ids[len(chain) :]:
            chain.append(((chain[-1] if chain else 1) * _CHAIN_FACTOR + token_id + 1) % _CHAIN_MODULUS)
        self._check_pages_before(chunk, chain)
        for position in range(chunk.start, chunk.end):
            page_id = chunk.sequence.block_table[position // self._page_size]
            self._slots[page_id * self._page_size + position % self._page_size] = chain[position]

    def _check_pages_before(self, chunk: Chunk, chain: list[int]) -> None:
        for first in range(0, chunk.start, self._page_size):
            num_tokens = min(self._page_size, chunk.start - first)
            page_id = chunk.sequence.block_table[first // self._page_size]
            slot = page_id * self._page_size
            if self._slots[slot : slot + num_tokens] != chain[first : first + num_tokens]:
                raise StepError(
                    f"sequence {chunk.sequence.sequence_id}: page {page_id} does not hold its tokens"
                    f" [{first}, {first + num_tokens})"
                )

    def _choose(self, sequence: RunningSequence) -> int:
        may_end = sequence.num_output_tokens >= sequence.sampling.min_tokens
        if may_end and self._eos_after is not None and sequence.num_output_tokens >= self._eos_after:
            return min(self._eos_token_ids)
        token_id = next_token(sequence.token_ids)
        banned = frozenset() if may_end else self._eos_token_ids.union(sequence.sampling.stop_token_ids)
        allowed = (token for token in range(token_id, token_id + VOCAB_SIZE) if token % VOCAB_SIZE not in banned)
        return next(allowed) % VOCAB_SIZE


class FakeEngine(Engine):
    """An engine over an instant executor."""

    def __init__(
        self,
        *,
        num_pages: int,
        page_size: int = 16,
        eos_token_ids: Iterable[int] = (EOS_TOKEN_ID,),
        eos_after: int | None = None,
        wrap: Wrap = plain,
    ) -> None:
        """Create the engine; `wrap` returns an executor around the instant one."""
        executor = FakeExecutor(
            num_pages=num_pages, page_size=page_size, eos_token_ids=eos_token_ids, eos_after=eos_after
        )
        super().__init__(
            wrap(executor),
            page_size=page_size,
            num_pages=num_pages,
            vocab_size=VOCAB_SIZE,
            eos_token_ids=eos_token_ids,
        )


def _logprobs(sequence: RunningSequence, token_id: int) -> tuple[TokenLogprobs, ...]:
    num_top = sequence.sampling.num_logprobs
    if num_top is None:
        return ()
    top = tuple(((token_id + rank) % VOCAB_SIZE, -0.25 - rank) for rank in range(num_top))
    return (TokenLogprobs(logprob=-0.25, top=top),)
