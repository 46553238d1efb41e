"""Executors that answer like devices: a step late, or with several tokens at once. Each wraps another one, which computes.

As on a device, the sequences' last tokens live in the executor: it has its own copies, and reads from the engine only what was
known when the sequence was new.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from worker.errors import DeviceLostError
from worker.kernels.logit_adjustment import Adjustment
from worker.steps.executor import Computed, LaunchedStep, StepExecutor
from worker.steps.sequence import Chunk, RunningSequence

Wrap = Callable[[StepExecutor], StepExecutor]
MAX_NEW_TOKENS = 4


class OwnSequences:
    """The executor's copies of the running sequences."""

    def __init__(self) -> None:
        self._by_id: dict[int, RunningSequence] = {}

    def forget(self, sequence_ids: Sequence[int]) -> None:
        for sequence_id in sequence_ids:
            self._by_id.pop(sequence_id, None)

    def clear(self) -> None:
        self._by_id.clear()

    def own(self, chunk: Chunk) -> Chunk:
        """Return the same chunk for this executor's copy of the sequence, from the copy's position. The pages stay the same."""
        sequence = self._by_id.get(chunk.sequence.sequence_id)
        if sequence is None:
            sequence = self._by_id[chunk.sequence.sequence_id] = _copy(chunk.sequence)
        start = len(sequence.token_ids) - chunk.num_tokens if chunk.is_sampled else chunk.start
        return replace(chunk, sequence=sequence, start=start, max_start=start)

    @staticmethod
    def append(chunks: Sequence[Chunk], computed: Computed) -> None:
        sampled = (chunk.sequence for chunk in chunks if chunk.is_sampled)
        for sequence, token_ids in zip(sampled, computed.token_ids, strict=True):
            for token_id in token_ids:
                sequence.append(token_id)


def _copy(sequence: RunningSequence) -> RunningSequence:
    adjustment = Adjustment.of(sequence.sampling, sequence.token_ids, sequence.num_prompt_tokens)
    return replace(sequence, token_ids=list(sequence.token_ids), adjustment=adjustment)


class LateExecutor:
    """A `worker.steps.executor.StepExecutor` that takes a second step before it returns the result of the first."""

    max_in_flight = 2

    def __init__(self, inner: StepExecutor) -> None:
        self._inner = inner
        self.max_new_tokens = inner.max_new_tokens
        self._sequences = OwnSequences()
        self._in_flight: deque[LateStep] = deque()

    def launch(self, chunks: Sequence[Chunk], forgotten: Sequence[int]) -> "LateStep":
        self._sequences.forget(forgotten)
        self._in_flight.append(LateStep(self._in_flight, self._compute(chunks, forgotten)))
        assert len(self._in_flight) <= self.max_in_flight
        return self._in_flight[-1]

    def _compute(self, chunks: Sequence[Chunk], forgotten: Sequence[int]) -> Computed | Exception:
        own = [self._sequences.own(chunk) for chunk in chunks]
        try:
            computed = self._inner.launch(own, forgotten).wait()
        except Exception as error:
            return error
        self._sequences.append(own, computed)
        return computed

    def reset(self) -> None:
        self._in_flight.clear()
        self._sequences.clear()
        self._inner.reset()

    def check_usable(self) -> None:
        self._inner.check_usable()


class LateStep:
    """A step whose result comes late; a `worker.steps.executor.LaunchedStep`."""

    def __init__(self, in_flight: "deque[LateStep]", outcome: Computed | Exception) -> None:
        self._in_flight = in_flight
        self._outcome = outcome

    def wait(self) -> Computed:
        assert self._in_flight.popleft() is self
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class SeveralTokensExecutor:
    """A `worker.steps.executor.StepExecutor` whose steps return a random number of tokens, at most what the plan allows.

    It does not check whether one of them ends the sequence.
    """

    max_new_tokens = MAX_NEW_TOKENS

    def __init__(self, inner: StepExecutor) -> None:
        self._inner = inner
        self.max_in_flight = inner.max_in_flight
        self._sequences = OwnSequences()
        self._chance = random.Random(4)

    def launch(self, chunks: Sequence[Chunk], forgotten: Sequence[int]) -> LaunchedStep:
        self._sequences.forget(forgotten)
        own = [self._sequences.own(chunk) for chunk in chunks]
        # The further tokens are added below, one by one.
        single = [replace(chunk, max_new_tokens=min(1, chunk.max_new_tokens)) for chunk in own]
        launched = self._inner.launch(single, forgotten)
        return SeveralTokensStep(self, own, launched)

    def add_tokens(self, chunks: Sequence[Chunk], computed: Computed) -> Computed:
        """Return the result with a random number of further tokens for each sampled chunk."""
        self._sequences.append(chunks, computed)
        sampled = [chunk for chunk in chunks if chunk.is_sampled]
        num_wanted = [self._chance.randint(1, min(MAX_NEW_TOKENS, chunk.max_new_tokens)) for chunk in sampled]
        token_ids, logprobs = list(computed.token_ids), list(computed.logprobs)
        for count in range(1, MAX_NEW_TOKENS):
            places = [place for place, wanted in enumerate(num_wanted) if wanted > count]
            more = self._decode([sampled[place].sequence for place in places])
            for place, new_ids, new_logprobs in zip(places, more.token_ids, more.logprobs, strict=True):
                token_ids[place] += new_ids
                logprobs[place] += new_logprobs
        return computed._replace(token_ids=token_ids, logprobs=logprobs)

    def _decode(self, sequences: Sequence[RunningSequence]) -> Computed:
        chunks = [_last_token(sequence) for sequence in sequences]
        computed = self._inner.launch(chunks, ()).wait()
        self._sequences.append(chunks, computed)
        return computed

    def reset(self) -> None:
        self._sequences.clear()
        self._inner.reset()

    def check_usable(self) -> None:
        self._inner.check_usable()


class SeveralTokensStep:
    """A step that returns several tokens; a `worker.steps.executor.LaunchedStep`."""

    def __init__(self, executor: SeveralTokensExecutor, chunks: Sequence[Chunk], launched: LaunchedStep) -> None:
        self._executor = executor
        self._chunks = chunks
        self._launched = launched

    def wait(self) -> Computed:
        return self._executor.add_tokens(self._chunks, self._launched.wait())


def _last_token(sequence: RunningSequence) -> Chunk:
    start = len(sequence.token_ids) - 1
    return Chunk(sequence=sequence, start=start, max_start=start, num_tokens=1, max_new_tokens=1)


class PoisonedExecutor:
    """A `worker.steps.executor.StepExecutor` whose device always fails after `num_good_steps` steps."""

    def __init__(self, inner: StepExecutor, num_good_steps: int) -> None:
        self._inner = inner
        self.max_in_flight = inner.max_in_flight
        self.max_new_tokens = inner.max_new_tokens
        self._num_left = num_good_steps

    def launch(self, chunks: Sequence[Chunk], forgotten: Sequence[int]) -> LaunchedStep:
        if self._num_left == 0:
            raise RuntimeError("an illegal memory access was encountered")
        self._num_left -= 1
        return self._inner.launch(chunks, forgotten)

    def reset(self) -> None:
        self._inner.reset()

    def check_usable(self) -> None:
        if self._num_left == 0:
            raise DeviceLostError("the fake device cannot be used in this process any more")


def plain(executor: StepExecutor) -> StepExecutor:
    return executor


def late_and_several(executor: StepExecutor) -> StepExecutor:
    return LateExecutor(SeveralTokensExecutor(executor))


EXECUTORS: dict[str, Wrap] = {
    "depth 1": plain,
    "late": LateExecutor,
    "several tokens": SeveralTokensExecutor,
    "late, several tokens": late_and_several,
}
"""Wrappers of an executor, by the name that a test's id shows."""


def max_new_tokens(wrap: Wrap) -> int:
    return MAX_NEW_TOKENS if wrap in (SeveralTokensExecutor, late_and_several) else 1
