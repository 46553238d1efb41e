"""The guides of the running sequences, and the masks of a step, which are computed while the model's forward pass runs."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from pagoda.wire.sampling import SamplingParams
from worker.constraints.answer import NextTokens
from worker.constraints.grammars import Grammars
from worker.constraints.guide import Guide
from worker.constraints.masks import RowMask, num_words, row_mask
from worker.constraints.vocabulary import LoadVocabulary

logger = logging.getLogger(__name__)

T = TypeVar("T")

_Guides = dict[int, Guide | None]
"""Guides by sequence id. None stands for one that has failed."""
ROWS_PER_THREAD = 16
"""Number of masks that a thread computes; starting more threads for fewer would take longer."""
MAX_THREADS = 8


class ConstrainedSequence(Protocol):
    """The part of a running sequence that its guide reads."""

    @property
    def sequence_id(self) -> int: ...

    @property
    def token_ids(self) -> Sequence[int]: ...

    @property
    def num_prompt_tokens(self) -> int: ...

    @property
    def sampling(self) -> SamplingParams: ...


class BegunMasks:
    """The masks of a step, by sequence id, while they are computed."""

    def __init__(self, parts: Sequence[Future[dict[int, RowMask]]]) -> None:
        self._parts = parts

    def wait(self) -> Mapping[int, RowMask]:
        """Return the masks, for the constrained sequences only."""
        return {sequence_id: mask for part in self._parts for sequence_id, mask in part.result().items()}


class Guides:
    def __init__(self, load: LoadVocabulary, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        """Create a cache of guides. `load` reads the model's vocabulary; it is called with the first constraint."""
        self._grammars = Grammars(load)
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._guides: _Guides = {}
        self._threads = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="masks")

    def prepare(self, sequences: Iterable[ConstrainedSequence]) -> None:
        """Begin to compile the grammars of sequences, which take part in a step that is about to run."""
        for sequence in sequences:
            constraint = sequence.sampling.constraint
            if constraint is not None and sequence.sequence_id not in self._guides:
                self._grammars.compile(constraint)

    def take_forced(self, sequence: ConstrainedSequence, most: int) -> tuple[int, ...]:
        """Return at most `most` tokens that must come next. The next mask is the one after them.

        A sequence without a mask so far gets none, since its grammar may not be compiled yet.
        """
        if most <= 0 or sequence.sequence_id not in self._guides:
            return ()
        return self._with_guide(self._guides, sequence, lambda guide: guide.take_forced(most), ())

    def begin_masks(self, sequences: Sequence[ConstrainedSequence]) -> BegunMasks:
        """Begin to compute the masks of constrained sequences, whose tokens must not change meanwhile."""
        parts = [sequences[first : first + ROWS_PER_THREAD] for first in range(0, len(sequences), ROWS_PER_THREAD)]
        return BegunMasks([self._threads.submit(self._masks, self._guides, part) for part in parts])

    def forget(self, sequence_ids: Iterable[int]) -> None:
        for sequence_id in sequence_ids:
            self._guides.pop(sequence_id, None)

    def clear(self) -> None:
        # A new dictionary, because a failed step may have left threads that still add to the old one.
        self._guides = {}

    def _masks(self, guides: _Guides, sequences: Sequence[ConstrainedSequence]) -> dict[int, RowMask]:
        return {each.sequence_id: self._mask(guides, each) for each in sequences}

    def _mask(self, guides: _Guides, sequence: ConstrainedSequence) -> RowMask:
        mask = self._with_guide(guides, sequence, self._mask_of, None)
        if mask is not None:
            return mask
        failed = NextTokens(token_ids=self._eos_token_ids, is_failed=True)
        return row_mask(failed, (), np.zeros(num_words(self._vocab_size), np.int32))

    def _mask_of(self, guide: Guide) -> RowMask:
        return row_mask(guide.next_tokens(), self._eos_token_ids, guide.mask_W)

    def _with_guide(self, guides: _Guides, sequence: ConstrainedSequence, use: Callable[[Guide], T], otherwise: T) -> T:
        """Return what `use` returns for the sequence's guide after all tokens so far, or `otherwise` if the guide has failed.

        An error ends this sequence only, not the step of all.
        """
        sequence_id = sequence.sequence_id
        try:
            if sequence_id not in guides:
                guides[sequence_id] = self._new_guide(sequence)
            guide = guides[sequence_id]
            if guide is None:
                return otherwise
            for token_id in sequence.token_ids[sequence.num_prompt_tokens + guide.num_seen :]:
                guide.consume(token_id)
            return use(guide)
        except Exception:
            logger.exception("constraint failed; the sequence may only end", extra={"sequence_id": sequence_id})
            guides[sequence_id] = None
            return otherwise

    def _new_guide(self, sequence: ConstrainedSequence) -> Guide:
        constraint = sequence.sampling.constraint
        assert constraint is not None
        return Guide(constraint, *self._grammars.open(constraint))
