"""Sampling parameters with their limits and their protobuf form.

The gateway's dialects make them; the worker's sampler applies them. protos/v1/types.proto defines the order in which they apply.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from pagoda.wire.constraint import Constraint
from protos.v1 import types_pb2

MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKEN_IDS = 64
MAX_ALLOWED_TOKEN_IDS = 16_384
MAX_BAD_WORDS = 256
"""Maximum number of sequences of ids. A word may have two, with and without a space before it."""
MAX_BAD_WORD_TOKENS = 16_384
"""Maximum number of ids in all sequences together."""
MAX_LOGPROB_TOKEN_IDS = 128
MAX_TEMPERATURE = 1000.0
"""Largest temperature, far above the point where answers become noise. OpenAI's API allows 2; Ollama's has no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters. The defaults sample from the whole distribution. `seed` is always set if temperature > 0."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    """Rule for the output; None if it is free."""
    allowed_token_ids: tuple[int, ...] = ()
    """Ids that may be generated; empty for all."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Sequences of ids that are not generated."""
    logprob_token_ids: tuple[int, ...] = ()
    """Ids whose log-probabilities are reported in place of the most probable ones'."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    def problem(self) -> str | None:
        """Return a message about the first value out of range, or None if all are valid."""
        checks: list[tuple[bool, str]] = [
            (
                0.0 <= self.temperature <= MAX_TEMPERATURE,
                f"temperature must be between 0 and {MAX_TEMPERATURE:g} (got {self.temperature})",
            ),
            (0.0 < self.top_p <= 1.0, f"top_p must be above 0 and at most 1 (got {self.top_p})"),
            (self.top_k >= 0, f"top_k must be 0 (off) or more (got {self.top_k})"),
            (0.0 <= self.min_p <= 1.0, f"min_p must be between 0 and 1 (got {self.min_p})"),
            (
                -2 <= self.presence_penalty <= 2,
                f"presence_penalty must be between -2 and 2 (got {self.presence_penalty})",
            ),
            (
                -2 <= self.frequency_penalty <= 2,
                f"frequency_penalty must be between -2 and 2 (got {self.frequency_penalty})",
            ),
            (
                0.0 < self.repetition_penalty <= 100.0,
                f"repetition_penalty must be above 0 and at most 100 (got {self.repetition_penalty})",
            ),
            (
                self.repetition_window >= 0,
                f"repetition_window must be 0 (all tokens) or more (got {self.repetition_window})",
            ),
            (self.max_tokens is None or self.max_tokens >= 1, f"max_tokens must be at least 1 (got {self.max_tokens})"),
            (self.min_tokens >= 0, f"min_tokens must be 0 or more (got {self.min_tokens})"),
            (
                self.max_tokens is None or self.min_tokens <= self.max_tokens,
                f"min_tokens must be at most max_tokens, which is {self.max_tokens} (got {self.min_tokens})",
            ),
            (
                self.num_logprobs is None or 0 <= self.num_logprobs <= MAX_LOGPROBS,
                f"the number of logprobs must be between 0 and {MAX_LOGPROBS} (got {self.num_logprobs})",
            ),
            (
                self.num_prompt_logprobs is None or 0 <= self.num_prompt_logprobs <= MAX_LOGPROBS,
                f"the number of prompt logprobs must be between 0 and {MAX_LOGPROBS} (got {self.num_prompt_logprobs})",
            ),
            (
                len(self.logit_bias) <= MAX_LOGIT_BIAS,
                f"logit_bias may name at most {MAX_LOGIT_BIAS} tokens (got {len(self.logit_bias)})",
            ),
            (
                all(-100 <= bias <= 100 for bias in self.logit_bias.values()),
                "logit_bias values must be between -100 and 100",
            ),
            (
                len(self.stop_token_ids) <= MAX_STOP_TOKEN_IDS,
                f"stop_token_ids may have at most {MAX_STOP_TOKEN_IDS} ids (got {len(self.stop_token_ids)})",
            ),
            *self._token_checks(),
        ]
        return next((message for holds, message in checks if not holds), None)

    def _token_checks(self) -> Iterator[tuple[bool, str]]:
        """Yield the checks of the fields that name tokens, with the message about each."""
        num_bad = sum(map(len, self.bad_words))
        yield (
            len(self.allowed_token_ids) <= MAX_ALLOWED_TOKEN_IDS,
            f"allowed_token_ids may have at most {MAX_ALLOWED_TOKEN_IDS} ids (got {len(self.allowed_token_ids)})",
        )
        yield (
            len(self.bad_words) <= MAX_BAD_WORDS and num_bad <= MAX_BAD_WORD_TOKENS,
            f"bad_words may have at most {MAX_BAD_WORDS} sequences with {MAX_BAD_WORD_TOKENS} token ids together "
            f"(got {len(self.bad_words)} with {num_bad})",
        )
        yield all(self.bad_words), "bad_words may not have a sequence without token ids"
        yield (
            len(self.logprob_token_ids) <= MAX_LOGPROB_TOKEN_IDS,
            f"logprob_token_ids may have at most {MAX_LOGPROB_TOKEN_IDS} ids (got {len(self.logprob_token_ids)})",
        )
        yield (
            self.num_logprobs is not None or not self.logprob_token_ids,
            "logprob_token_ids need log-probabilities: set num_logprobs",
        )

    @property
    def named_token_ids(self) -> Iterator[Iterable[int]]:
        """All collections of token ids in these parameters."""
        yield from (self.logit_bias, self.stop_token_ids, self.allowed_token_ids, self.logprob_token_ids)
        yield from self.bad_words
        if self.constraint is not None:
            yield self.constraint.token_ids

    def to_proto(self) -> types_pb2.SamplingParams:
        return types_pb2.SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            repetition_window=self.repetition_window,
            logit_bias=self.logit_bias,
            seed=self.seed,
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            stop_token_ids=self.stop_token_ids,
            num_logprobs=self.num_logprobs,
            num_prompt_logprobs=self.num_prompt_logprobs,
            constraint=self.constraint.to_proto() if self.constraint else None,
            allowed_token_ids=self.allowed_token_ids,
            bad_words=[types_pb2.TokenSequence(token_ids=token_ids) for token_ids in self.bad_words],
            logprob_token_ids=self.logprob_token_ids,
        )

    @classmethod
    def from_proto(cls, message: types_pb2.SamplingParams) -> "SamplingParams":
        """Return the parameters. An absent field takes this class's default, not protobuf's zero."""
        values = {descriptor.name: value for descriptor, value in message.ListFields()}
        converted = (
            "allowed_token_ids",
            "bad_words",
            "constraint",
            "logit_bias",
            "logprob_token_ids",
            "stop_token_ids",
        )
        known = {field.name for field in fields(cls)}.difference(converted)
        # ListFields returns all fields with presence, so an explicit 0, as for temperature, is kept.
        kwargs = {name: value for name, value in values.items() if name in known}
        return cls(
            **kwargs,
            logit_bias=MappingProxyType(dict(message.logit_bias)),
            stop_token_ids=tuple(message.stop_token_ids),
            allowed_token_ids=tuple(message.allowed_token_ids),
            logprob_token_ids=tuple(message.logprob_token_ids),
            bad_words=tuple(tuple(sequence.token_ids) for sequence in message.bad_words),
            constraint=Constraint.from_proto(message.constraint) if message.HasField("constraint") else None,
        )
