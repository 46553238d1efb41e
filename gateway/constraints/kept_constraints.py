"""The latest constraints of answers, kept by what they were made from: an agent sends the same tools with every turn."""

from collections import OrderedDict
from collections.abc import Hashable
from weakref import WeakKeyDictionary

from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.constraint import Constraint

MAX_CHARACTERS = 1 << 24
"""Maximum size of the kept constraints of one vocabulary."""
_OVERHEAD = 1024
"""Size of a constraint besides its grammar, about."""


class KeptConstraints:
    """The constraints that were used last, of each vocabulary."""

    def __init__(self, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_characters = max_characters
        self._kept: WeakKeyDictionary[Tokenizer, _OfVocabulary] = WeakKeyDictionary()

    def find(self, tokenizer: Tokenizer, origin: Hashable) -> Constraint | None:
        """Return the constraint that was made from `origin`, or None."""
        kept = self._kept.get(tokenizer)
        return None if kept is None else kept.find(origin)

    def keep(self, tokenizer: Tokenizer, origin: Hashable, constraint: Constraint) -> None:
        """Keep the constraint, and forget those that were not used for longest if all need too much."""
        self._kept.setdefault(tokenizer, _OfVocabulary()).keep(origin, constraint, self._max_characters)


class _OfVocabulary:
    def __init__(self) -> None:
        self._constraints: OrderedDict[Hashable, Constraint] = OrderedDict()
        self._size = 0

    def find(self, origin: Hashable) -> Constraint | None:
        if origin not in self._constraints:
            return None
        self._constraints.move_to_end(origin)
        return self._constraints[origin]

    def keep(self, origin: Hashable, constraint: Constraint, max_characters: int) -> None:
        if origin in self._constraints:
            return
        self._constraints[origin] = constraint
        self._size += len(constraint.grammar) + _OVERHEAD
        while self._size > max_characters:
            _, oldest = self._constraints.popitem(last=False)
            self._size -= len(oldest.grammar) + _OVERHEAD
