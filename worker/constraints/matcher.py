"""A matcher of llguidance, whose errors and panics end only its own sequence."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from llguidance import LLMatcher

logger = logging.getLogger(__name__)

MAX_REASON = 200
"""Maximum number of characters of a reason in the log."""

P = ParamSpec("P")
T = TypeVar("T")


class MatcherError(Exception):
    """llguidance has failed; the message says how."""


class Matcher:
    """The state of a grammar after some tokens.

    Once llguidance has failed, the matcher is broken: it accepts nothing any more, and the sequence may only end. That gives the
    same answer wherever the tokens are replayed, and no text that the grammar does not allow.
    """

    def __init__(self, raw: "LLMatcher | None", name: str) -> None:
        """Create a matcher; None stands for a grammar that could not be compiled. `name` identifies the grammar in the log."""
        self.raw = raw
        self._name = name

    def copy(self) -> "Matcher":
        return Matcher(self._call(self.raw.deep_copy) if self.raw else None, self._name)

    @property
    def is_broken(self) -> bool:
        return self.raw is None

    @property
    def is_ended(self) -> bool:
        """True if the grammar is complete and allows no further text."""
        return self.raw is not None and bool(self._call(self.raw.is_stopped))

    def accepts(self, token_ids: Sequence[int]) -> bool:
        """Return True if the grammar allows these tokens next."""
        return self.raw is not None and self._call(self.raw.validate_tokens, list(token_ids)) == len(token_ids)

    def consume(self, token_ids: Sequence[int]) -> None:
        if self.raw is None or not token_ids:
            return
        if not self._call(self.raw.consume_tokens, list(token_ids)) and self.raw is not None:
            self.fail(self.raw.get_error())

    def fill(self, words_W: NDArray[np.int32]) -> bool:
        """Write the mask of the tokens that may come next (masks.py) to `words_W`. Return False if the matcher is broken."""
        if self.raw is not None:
            self._call(self.raw.unsafe_compute_mask_ptr, words_W.ctypes.data, words_W.nbytes)
            self.find_error()
        return self.raw is not None

    def only_token(self, scratch_W: NDArray[np.int32]) -> int | None:
        """Return the token that must come next, or None if there is a choice. `scratch_W` has the size of a mask.

        llguidance proposes tokens where the grammar forces the next bytes. A proposal counts only if the mask allows nothing else.
        """
        proposed = self._call(self.raw.compute_ff_tokens) if self.raw is not None else None
        if not proposed or not self.fill(scratch_W):
            return None
        return proposed[0] if is_only_token(scratch_W, proposed[0]) else None

    def find_error(self) -> None:
        """Break the matcher if llguidance has failed, as it may while it computes a mask."""
        if self.raw is not None and self._call(self.raw.is_error) and self.raw is not None:
            self.fail(self.raw.get_error())

    def fail(self, reason: str) -> None:
        """Break the matcher and log why. Only the beginning of the reason is logged, because the rest quotes the grammar."""
        self.raw = None
        logger.error(
            "grammar failed; the sequence may only end",
            extra={"grammar": self._name, "reason": reason.partition("\n")[0][:MAX_REASON]},
        )

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return guarded(function, *args, **kwargs)
        except MatcherError as error:
            self.fail(str(error))
            return None


def is_only_token(words_W: NDArray[np.int32], token_id: int) -> bool:
    """Return True if the mask allows this token and no other."""
    is_allowed = int(words_W[token_id // 32]) & 0xFFFFFFFF == 1 << token_id % 32
    return is_allowed and np.count_nonzero(words_W) == 1


def guarded(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of llguidance. Raises MatcherError also for a panic of its Rust code, which is a BaseException."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise MatcherError(f"{type(error).__name__}: {error}") from error
    except BaseException as error:
        # The class can be reached only as the type of such an error.
        if type(error).__name__ != "PanicException":
            raise
        raise MatcherError(f"panic: {error}") from None
