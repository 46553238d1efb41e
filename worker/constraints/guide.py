"""The state of a sequence under its constraint: reasoning, then the answer. protos/v1/types.proto says what the parts mean.

The state is a function of the generated tokens. A sequence that arrives with generated tokens replays them, and gets the same
masks as where they were generated.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum, auto

import numpy as np

from pagoda.wire.constraint import Constraint, Reasoning
from worker.constraints.answer import Answer, NextTokens
from worker.constraints.marker_watch import MarkerWatch
from worker.constraints.masks import num_words
from worker.constraints.matcher import Matcher
from worker.constraints.vocabulary import Vocabulary


class Phase(Enum):
    BEFORE = auto()
    """Nothing but whitespace and a part of the opening marker exists: the reasoning or the answer may begin."""
    REASONING = auto()
    CLOSING = auto()
    """The budget is used up: the closing tokens follow one by one."""
    ANSWER = auto()


class Guide:
    def __init__(self, constraint: Constraint, vocabulary: Vocabulary, make_matcher: Callable[[], Matcher]) -> None:
        """Create a guide before the first token. `make_matcher` returns a matcher before the first token of the grammar."""
        self._constraint = constraint
        self._vocabulary = vocabulary
        self._make_matcher = make_matcher
        self.mask_W = np.zeros(num_words(vocabulary.size), np.int32)
        """Memory for the mask of the next token, which a step needs until its tokens are chosen."""
        self.num_seen = 0
        """Number of generated tokens that were consumed."""
        self._written = b""
        """In `BEFORE`, the text without leading whitespace: a part of the opening marker."""
        self._is_refused = False
        """In `BEFORE`, true if the grammar refuses that part, so that only the opening marker can follow."""
        self._num_reasoned = 0
        self._closing: Sequence[int] = ()
        """In `CLOSING`, the tokens that follow."""
        self._phase = Phase.ANSWER if constraint.reasoning is None else Phase.BEFORE
        self._answer = self._new_answer()
        self._close_watch = MarkerWatch(() if constraint.reasoning is None else (constraint.reasoning.close,))
        if constraint.reasoning is not None and constraint.reasoning.is_open:
            self._begin_reasoning(constraint.reasoning)

    @property
    def is_free(self) -> bool:
        """True if no later token is restricted."""
        return self._phase is Phase.ANSWER and self._answer.is_free

    @property
    def _governs_all(self) -> bool:
        """True if the grammar applies to the whole answer."""
        return bool(self._constraint.grammar) and not self._constraint.triggers

    def consume(self, token_id: int) -> None:
        """Take the next generated token."""
        self.num_seen += 1
        reasoning, spelled = self._constraint.reasoning, self._vocabulary.spelling(token_id)
        if reasoning is None or self._phase is Phase.ANSWER:
            self._answer.consume(token_id, spelled)
        elif self._phase is Phase.BEFORE:
            self._decide(reasoning, token_id, spelled)
        elif self._phase is Phase.REASONING:
            self._num_reasoned += 1
            self._reason(reasoning, token_id, spelled)
        else:
            self._closing = self._closing[1:]
            if not self._closing:
                self._begin_answer()

    def next_tokens(self) -> NextTokens:
        """Return the tokens that may come next."""
        reasoning = self._constraint.reasoning
        if reasoning is None or self._phase is Phase.ANSWER:
            return self._answer.next_tokens()
        if self._phase is Phase.CLOSING:
            return NextTokens(token_ids=self._closing[:1])
        if self._phase is Phase.REASONING:
            return NextTokens(is_free=True, banned_ids=self._banned(reasoning))
        allowed = self._answer.next_tokens()
        if allowed.is_free:
            return allowed
        opening = self._opening_tokens(reasoning)
        if self._is_refused:
            return NextTokens(token_ids=opening or self._vocabulary.eos_token_ids)
        return replace(allowed, token_ids=(*allowed.token_ids, *opening))

    def take_forced(self, most: int) -> tuple[int, ...]:
        """Consume the tokens that must come next, at most `most`, and return them.

        Where one token is left, sampling could only choose that one. A token that ends the sequence is not taken, so that it is
        always sampled.
        """
        taken: list[int] = []
        while len(taken) < most and (token_id := self._only_token()) is not None:
            self.consume(token_id)
            taken.append(token_id)
        return tuple(taken)

    def _only_token(self) -> int | None:
        allowed = self.next_tokens()
        if allowed.is_free:
            return None
        if allowed.matcher is None:
            token_id = allowed.token_ids[0] if len(allowed.token_ids) == 1 else None
        else:
            token_id = None if allowed.token_ids else allowed.matcher.only_token(self.mask_W)
        return None if token_id in self._vocabulary.eos_token_ids else token_id

    def _decide(self, reasoning: Reasoning, token_id: int, spelled: bytes) -> None:
        """Take a token that may open the reasoning, begin the answer, or leave that open."""
        self._written = (self._written + spelled).lstrip()
        text = reasoning.open.text
        if token_id == reasoning.open.token_id:
            self._begin_reasoning(reasoning)
        elif text and self._written.startswith(text):
            self._begin_reasoning(reasoning)
            self._reason(reasoning, token_id, self._written[len(text) :])
        else:
            # A control token has no text, but it is not whitespace either.
            if not spelled or not text.startswith(self._written):
                self._phase = Phase.ANSWER
            if self._phase is Phase.BEFORE and not self._answer.accepts(token_id):
                self._is_refused = True
            if not self._is_refused:
                self._answer.consume(token_id, spelled)
            elif self._phase is Phase.ANSWER:
                self._answer.fail("the output begins with a part of a marker that the grammar does not allow")

    def _begin_reasoning(self, reasoning: Reasoning) -> None:
        self._phase = Phase.REASONING
        self._answer = self._new_answer()
        self._check_budget(reasoning)

    def _reason(self, reasoning: Reasoning, token_id: int, spelled: bytes) -> None:
        """Take a token of the reasoning, of which the bytes `spelled` belong to the reasoning or follow it."""
        closed = self._close_watch.see(token_id, spelled)
        if closed:
            self._begin_answer()
            # Before a grammar over the whole answer, the rest is whitespace: other tokens are banned.
            if closed[0].rest and not self._governs_all:
                self._answer.consume(token_id, closed[0].rest)
        elif self._constraint.triggers_in_reasoning and self._answer.consume(token_id, spelled):
            self._phase = Phase.ANSWER
        if self._phase is Phase.REASONING:
            self._check_budget(reasoning)

    def _check_budget(self, reasoning: Reasoning) -> None:
        """Begin to close the reasoning if its budget is used up."""
        if reasoning.budget is not None and self._num_reasoned >= reasoning.budget and reasoning.closing_token_ids:
            self._phase = Phase.CLOSING
            self._closing = self._missing_closing_tokens(reasoning)

    def _missing_closing_tokens(self, reasoning: Reasoning) -> Sequence[int]:
        """Return the closing tokens without those of a marker that the model has begun to write.

        If the part that exists does not end where one of the tokens ends, all of them follow.
        """
        text, tokens = reasoning.close.text, reasoning.closing_token_ids
        begun = self._close_watch.begun_part(text)
        spelled = list(map(self._vocabulary.spelling, tokens))
        start = b"".join(spelled).find(text)
        if begun and start >= 0:
            for number in range(len(tokens)):
                if sum(map(len, spelled[:number])) == start + len(begun):
                    return tokens[number:]
        return tokens

    def _begin_answer(self) -> None:
        self._phase = Phase.ANSWER
        self._answer = self._new_answer()

    def _new_answer(self) -> Answer:
        return Answer(self._constraint, self._make_matcher, self._vocabulary.eos_token_ids)

    def _opening_tokens(self, reasoning: Reasoning) -> Sequence[int]:
        marker = reasoning.open
        if marker.token_id is not None:
            return () if self._written else (marker.token_id,)
        return self._vocabulary.opening_tokens(marker.text, self._written) if marker.text else ()

    def _banned(self, reasoning: Reasoning) -> Sequence[int]:
        """Return the tokens with which the answer would not obey a grammar that applies to all of it.

        Such a token ends the sequence without an answer, or ends the reasoning and has bytes of the answer too, which the
        matcher could not be given.
        """
        if not self._governs_all:
            return ()
        close = reasoning.close
        ends = [token_id for token_id in self._vocabulary.eos_token_ids if token_id != close.token_id]
        if not close.text:
            return ends
        return (*ends, *self._vocabulary.crossing_tokens(close.text, self._close_watch.begun_part(close.text)))
