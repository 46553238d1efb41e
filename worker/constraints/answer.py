"""The part of a sample that its grammar applies to: all of it, or what begins with a trigger, or nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pagoda.wire.constraint import Constraint
from worker.constraints.marker_watch import MarkerWatch
from worker.constraints.matcher import Matcher


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens:
    """The tokens that may come next: all but the banned ones, or only those that the matcher allows and those in `token_ids`."""

    is_free: bool = False
    banned_ids: Sequence[int] = ()
    matcher: Matcher | None = None
    token_ids: Sequence[int] = ()
    is_failed: bool = False
    """True if the grammar has failed, so that the sequence may only end."""


FREE = NextTokens(is_free=True)


class Answer:
    def __init__(
        self, constraint: Constraint, make_matcher: Callable[[], Matcher], eos_token_ids: Sequence[int]
    ) -> None:
        """Create an answer without tokens. `make_matcher` returns a matcher before the first token of the grammar."""
        self._make_matcher = make_matcher
        self._watch = MarkerWatch(constraint.triggers)
        self._has_triggers = bool(constraint.triggers)
        self._end = NextTokens(token_ids=eos_token_ids)
        self.is_free = not constraint.grammar
        """True if there is no grammar."""
        self.matcher: Matcher | None = None
        """The matcher of the part of the answer that the grammar applies to now."""
        if not self.is_free and not self._has_triggers:
            self.matcher = make_matcher()

    def accepts(self, token_id: int) -> bool:
        """Return True if the token may come next."""
        return self.matcher is None or self.matcher.is_ended or self.matcher.accepts((token_id,))

    def consume(self, token_id: int, spelled: bytes) -> bool:
        """Take the next token, of which the bytes `spelled` belong to the answer. Return True if a trigger begins the grammar."""
        if self.is_free:
            return False
        if self.matcher is None:
            return self._look_for_trigger(token_id, spelled)
        if not self.matcher.is_ended:
            # An ended matcher gets no more tokens: with ignore_eos, tokens that end the sequence follow each other.
            self.matcher.consume((token_id,))
            self._leave_complete_grammar()
        return False

    def fail(self, reason: str) -> None:
        """Let the sequence only end, if the grammar applies now."""
        if self.matcher is not None:
            self.matcher.fail(reason)

    def next_tokens(self) -> NextTokens:
        if self.matcher is None:
            return FREE
        if self.matcher.is_broken:
            return NextTokens(token_ids=self._end.token_ids, is_failed=True)
        return self._end if self.matcher.is_ended else NextTokens(matcher=self.matcher)

    def _look_for_trigger(self, token_id: int, spelled: bytes) -> bool:
        for found in self._watch.see(token_id, spelled):
            matcher = self._make_matcher()
            if matcher.accepts(found.token_ids):
                matcher.consume(found.token_ids)
                self.matcher = matcher
                self._leave_complete_grammar()
                return True
        return False

    def _leave_complete_grammar(self) -> None:
        if self._has_triggers and self.matcher is not None and self.matcher.is_ended:
            self.matcher = None
            self._watch.reset()
