"""The compiled grammars of the latest requests. Each sequence gets a copy of the matcher before the first token."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pagoda.wire.constraint import Constraint
from worker.constraints.matcher import Matcher, MatcherError, guarded
from worker.constraints.vocabulary import LoadVocabulary, Vocabulary

MAX_GRAMMARS = 128


class Grammars:
    """A cache of the latest grammars by digest, and the vocabulary that they are compiled for.

    Grammars are compiled on a thread of their own, from the first step of a sequence on, so that the compilation overlaps the
    prefill. A step that needs a grammar for a sequence's first mask waits for it: a step must give each sequence a token, and
    which token that is must not depend on time. The gateway has compiled the grammar with the same limits, so the wait is short.
    """

    def __init__(self, load: LoadVocabulary, max_grammars: int = MAX_GRAMMARS) -> None:
        self._load = load
        self._max_grammars = max_grammars
        self._compiled: OrderedDict[bytes, Future[Matcher]] = OrderedDict()
        self._vocabulary: Future[Vocabulary] | None = None
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")

    def open(self, constraint: Constraint) -> tuple[Vocabulary, Callable[[], Matcher]]:
        """Return the vocabulary, and a function that returns a new matcher of the grammar."""
        vocabulary, compiled = self.compile(constraint)
        return vocabulary.result(), lambda: compiled.result().copy()

    def compile(self, constraint: Constraint) -> "tuple[Future[Vocabulary], Future[Matcher]]":
        """Begin to read the vocabulary and to compile the grammar, unless that is done. What has failed is tried again."""
        with self._lock:
            # A worker without constraints never reads the vocabulary, which takes 75 to 250 MB.
            vocabulary = self._vocabulary
            if vocabulary is None or _has_failed(vocabulary):
                vocabulary = self._vocabulary = self._thread.submit(self._load)
                self._compiled.clear()  # none of them can be compiled with the old one
            compiled = self._compiled.get(constraint.digest)
            if compiled is None or _has_failed(compiled):
                compiled = self._compiled[constraint.digest] = self._thread.submit(_compile, constraint, vocabulary)
            self._compiled.move_to_end(constraint.digest)
            while len(self._compiled) > self._max_grammars:
                self._compiled.popitem(last=False)
            return vocabulary, compiled


def _has_failed(future: "Future[Any]") -> bool:
    return future.done() and future.exception() is not None


def _compile(constraint: Constraint, vocabulary: "Future[Vocabulary]") -> Matcher:
    """Compile the constraint's grammar; without one, return a broken matcher, which nothing uses."""
    name = constraint.grammar_name
    if not constraint.grammar:
        return Matcher(None, name)
    from llguidance import LLMatcher

    from pagoda.text.grammar_tokens import parser_limits

    matcher, read = Matcher(None, name), vocabulary.result()
    try:
        tokenizer = guarded(lambda: read.grammar_tokenizer)
        # At level 0, a refused token is not printed.
        matcher.raw = guarded(LLMatcher, tokenizer, constraint.grammar, log_level=0, limits=parser_limits())
    except MatcherError as error:
        matcher.fail(str(error))
    matcher.find_error()
    return matcher
