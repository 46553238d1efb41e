"""The check of grammars in processes of their own, with limits of time and memory, before a request is queued.

A grammar is untrusted: a short one may need any time and memory, and may crash the library. grammar_process.py compiles it, within
limits that the kernel enforces. The verdicts are kept.
"""

import asyncio
import hashlib
import signal
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from gateway.confined.child import ChildEndedError, Reply
from gateway.confined.pool import ConfinedPool
from gateway.constraints.kept_constraints import KeptConstraints
from gateway.constraints.refusals import readable_reason, with_place
from gateway.constraints.text_rule import MAX_GRAMMAR_CHARACTERS
from gateway.errors import ErrorKind, GatewayError, InvalidRequestError, unavailable
from gateway.models.served_model import ServedModel
from pagoda.text.token_table import TokenTable
from pagoda.text.tokenizer import Tokenizer

MAX_WAITING = 32
"""Maximum number of grammars that wait for a process."""
MAX_VERDICTS = 1024
LOAD_CPU_S = 20.0
"""Maximum processor time to load a vocabulary, in seconds. It takes 0.1 to 1 s."""

_Key = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarLimits:
    """The limits of one check."""

    cpu_s: float = 2.0
    """Maximum processor time, in seconds."""
    memory_bytes: int = 1 << 30
    """Maximum address space of the process, in bytes. Three vocabularies of 150,000 tokens take 200 MiB of it."""


class GrammarCompiler:
    """A bounded pool of processes that compile grammars. The first one is started when it is first needed."""

    def __init__(self, limits: GrammarLimits | None = None, *, max_processes: int = 2) -> None:
        self._limits = limits or GrammarLimits()
        numbers = (LOAD_CPU_S, self._limits.memory_bytes, self._limits.cpu_s)
        self._pool = ConfinedPool(
            "gateway.constraints.grammar_process", numbers, work="grammars", max_processes=max_processes
        )
        self._threads = ThreadPoolExecutor(max_workers=max_processes, thread_name_prefix="grammar")
        self._vocabularies: WeakKeyDictionary[Tokenizer, bytes] = WeakKeyDictionary()
        self._verdicts: OrderedDict[_Key, str | None] = OrderedDict()
        self._running: dict[_Key, asyncio.Task[str | None]] = {}
        self.kept = KeptConstraints()
        """Constraints of answers, which were checked."""

    async def check_grammar(self, model: ServedModel, grammar: str, field: str, *, schema: Any = None) -> None:
        """Raise InvalidRequestError that names `field` and the reason if the model's workers could not use the grammar.

        `schema` is the JSON Schema in the field, in which the error shows the place.
        """
        if (problem := await self.problem_of(model.tokenizer, grammar)) is not None:
            raise InvalidRequestError(f"{field}: {with_place(problem, schema)}", param=field)

    async def problem_of(self, tokenizer: Tokenizer, grammar: str) -> str | None:
        """Return why the model's workers could not use the grammar, or None. Raises OVERLOADED if too many grammars wait."""
        if len(grammar) > MAX_GRAMMAR_CHARACTERS:
            return f"too long: it needs a grammar of {len(grammar)} characters; at most {MAX_GRAMMAR_CHARACTERS} are allowed"
        key = (await self._vocabulary(tokenizer), hashlib.sha256(grammar.encode("utf-8", "replace")).digest())
        if key in self._verdicts:
            self._verdicts.move_to_end(key)
            return self._verdicts[key]
        if key not in self._running:
            if len(self._running) >= MAX_WAITING:
                raise GatewayError(
                    ErrorKind.OVERLOADED,
                    f"{len(self._running)} requests with a new grammar are waiting already; try again later.",
                    retry_after_s=self._limits.cpu_s,
                )
            task = asyncio.create_task(self._find_problem(key, tokenizer, grammar))
            self._running[key] = task
            task.add_done_callback(lambda done: self._note_verdict(key, done))
        # The client of one request may leave; others with the same grammar wait for the same check.
        return await asyncio.shield(self._running[key])

    def close(self) -> None:
        """End the processes."""
        self._pool.close_idle_processes()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _vocabulary(self, tokenizer: Tokenizer) -> bytes:
        """Return the digest of the model's vocabulary."""
        if tokenizer not in self._vocabularies:
            self._vocabularies[tokenizer] = await asyncio.to_thread(lambda: TokenTable.of_tokenizer(tokenizer).digest())
        return self._vocabularies[tokenizer]

    async def _find_problem(self, key: _Key, tokenizer: Tokenizer, grammar: str) -> str | None:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._ask, key[0].hex(), tokenizer, grammar
        )

    def _note_verdict(self, key: _Key, task: asyncio.Task[str | None]) -> None:
        del self._running[key]
        if not task.cancelled() and task.exception() is None:
            self._verdicts[key] = task.result()
            if len(self._verdicts) > MAX_VERDICTS:
                self._verdicts.popitem(last=False)

    def _ask(self, vocabulary: str, tokenizer: Tokenizer, grammar: str) -> str | None:
        try:
            reply = self._ask_pool(vocabulary, grammar, None)
            if reply.outcome == "no_vocabulary":
                reply = self._ask_pool(vocabulary, grammar, _as_json(TokenTable.of_tokenizer(tokenizer)))
        except ChildEndedError as error:
            return self._limit_reached(error.status)
        return None if reply.outcome == "valid" else readable_reason(reply.content.decode("utf-8", "replace"))

    def _ask_pool(self, vocabulary: str, grammar: str, table: Mapping[str, Any] | None) -> Reply:
        return self._pool.ask(orjson.dumps({"vocabulary": vocabulary, "grammar": grammar, "table": table}))

    def _limit_reached(self, status: int) -> str:
        if status == -signal.SIGPROF:
            return f"needs more than {self._limits.cpu_s:g} s of processor time to compile"
        if status >= 0:
            raise unavailable(f"The process for grammars ended with status {status}; see the log.")
        return f"needs more than {self._limits.memory_bytes >> 20} MiB of memory to compile, or crashes the compiler"


def _as_json(table: TokenTable) -> Mapping[str, Any]:
    return {
        "tokens": [token.decode("latin-1") for token in table.tokens],
        "control_token_ids": table.control_token_ids,
        "bos_token_id": table.bos_token_id,
        "eos_token_ids": table.eos_token_ids,
    }
