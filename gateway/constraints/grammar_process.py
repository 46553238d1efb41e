"""The process that checks grammars: `python -m gateway.constraints.grammar_process LOAD_CPU_S MEMORY_BYTES CHECK_CPU_S`.

compiler.py starts it, and replaces it if it was killed. Its limits are those of gateway/confined/serve.py; LOAD_CPU_S is the limit
for loading a vocabulary, CHECK_CPU_S the one for a grammar.
"""

import contextlib
import signal
import sys
from collections import OrderedDict
from functools import partial
from typing import Any

import orjson
from llguidance import LLMatcher, LLTokenizer

from gateway.confined.serve import PoisonedError, serve_requests
from pagoda.text.grammar_tokens import parser_limits, table_tokenizer
from pagoda.text.token_table import TokenTable

MAX_VOCABULARIES = 3
MAX_REASON_CHARACTERS = 500
NUM_TRIED_TOKENS = 16
"""Number of steps of a text that each grammar is tried with."""

_vocabularies: OrderedDict[str, LLTokenizer] = OrderedDict()


def main() -> None:
    load_cpu_s, memory_bytes, check_cpu_s = float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    serve_requests(partial(_answer, check_cpu_s=check_cpu_s), cpu_s=load_cpu_s, memory_bytes=memory_bytes)


def _answer(request: bytes, check_cpu_s: float) -> tuple[str, bytes]:
    """Return `valid`, `refused` with the reason, or `no_vocabulary` if the request must have the tokens."""
    content = orjson.loads(request)
    name = content["vocabulary"]
    if name not in _vocabularies:
        if content["table"] is None:
            return "no_vocabulary", b""
        _vocabularies[name] = _tokenizer(content["table"])
        if len(_vocabularies) > MAX_VOCABULARIES:
            _vocabularies.popitem(last=False)
    _vocabularies.move_to_end(name)
    signal.setitimer(signal.ITIMER_PROF, check_cpu_s)
    try:
        problem = _problem(content["grammar"], _vocabularies[name])
    except MemoryError:
        raise
    except BaseException as error:
        # A panic of llguidance is a BaseException. The process ends, since a panic may leave anything behind.
        raise PoisonedError("refused", f"the grammar cannot be used: {type(error).__name__}".encode()) from None
    return ("valid", b"") if problem is None else ("refused", problem[:MAX_REASON_CHARACTERS].encode())


def _tokenizer(table: dict[str, Any]) -> LLTokenizer:
    tokens = tuple(token.encode("latin-1") for token in table.pop("tokens"))

    def encode(text: str) -> list[int]:
        # A grammar may force a text. Which tokens it becomes makes no difference here, only for a worker.
        return made.greedy_tokenize(text)

    made = table_tokenizer(TokenTable(tokens=tokens, **table), encode)
    return made


def _problem(grammar: str, tokenizer: LLTokenizer) -> str | None:
    """Return why a worker could not use the grammar, in llguidance's words."""
    limits = parser_limits()
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, tokenizer, limits=limits)
    if is_error:
        return messages[0] or "it is not valid"
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not any(_mask(matcher)) and not matcher.is_error():
        return "Unsatisfiable schema: no text can satisfy it"
    # Some limits of llguidance are reached only behind the first tokens, for example in an object with many properties.
    for _ in range(NUM_TRIED_TOKENS):
        if matcher.is_error() or not matcher.consume_tokens(_next_tokens(matcher, tokenizer)):
            break
    return matcher.get_error() if matcher.is_error() else None


def _mask(matcher: LLMatcher) -> bytes:
    """Return the mask, or nothing if the matcher fails."""
    with contextlib.suppress(ValueError):
        return matcher.compute_bitmask()
    return b""


def _next_tokens(matcher: LLMatcher, tokenizer: LLTokenizer) -> list[int]:
    """Return the tokens that must come next, or else the first one that may."""
    if forced := matcher.compute_ff_tokens():
        return forced
    for index, byte in enumerate(_mask(matcher)):
        for token_id in range(8 * index, 8 * index + 8):
            if byte >> token_id % 8 & 1 and token_id not in tokenizer.eos_tokens:
                return [token_id]
    return []


if __name__ == "__main__":
    main()
