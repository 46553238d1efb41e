"""Workloads of prompts with exact lengths, the same for the same seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Set in every request, so that defaults of a server or a model do not affect the measurement.
_NEUTRAL = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "presence_penalty": 0, "frequency_penalty": 0}
NEUTRAL = {**_NEUTRAL, "repetition_penalty": 1}
GREEDY = {**NEUTRAL, "temperature": 0}
NEUTRAL_OPTIONS = {**_NEUTRAL, "repeat_penalty": 1}
"""Neutral sampling parameters under their names in Ollama's API."""

# Short common words: in most vocabularies each is one token, with the space before it.
WORDS = (
    *("the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his"),
    *(
        "they",
        "at",
        "be",
        "this",
        "have",
        "from",
        "or",
        "one",
        "had",
        "by",
        "word",
        "but",
        "not",
        "what",
        "all",
        "were",
    ),
    *("we", "when", "your", "can", "said", "there", "use", "an", "each", "which", "she", "do", "how", "their", "if"),
    *("will", "up", "other", "about", "out", "many", "then", "them", "these", "so", "some", "her", "would", "make"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The source of prompts: token ids in [low, high), or words for a server that takes no ids."""

    low: int = 1000
    high: int = 30000
    as_text: bool = False

    def draw(self, source: random.Random, length: int) -> tuple[int, ...]:
        return tuple(source.randrange(self.low, self.high) for _ in range(length))

    def prompt(self, token_ids: Sequence[int]) -> list[int] | str:
        return " ".join(WORDS[token_id % len(WORDS)] for token_id in token_ids) if self.as_text else list(token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    prompt: list[int] | str
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomWorkload:
    """A workload of prompts that have nothing in common, so that no prefix cache helps."""

    num_requests: int
    input_len: int
    output_len: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"random {self.input_len}/{self.output_len}"

    def requests(self, vocabulary: Vocabulary) -> list[PlannedRequest]:
        source = random.Random(self.seed)
        prompts = (vocabulary.draw(source, self.input_len) for _ in range(self.num_requests))
        return [PlannedRequest(prompt=vocabulary.prompt(ids), max_tokens=self.output_len) for ids in prompts]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefixWorkload:
    """A workload of a few long prefixes (system prompts, documents), each with many different short suffixes."""

    num_requests: int
    num_prefixes: int
    prefix_len: int
    suffix_len: int
    output_len: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"shared {self.num_prefixes}x{self.prefix_len}+{self.suffix_len}/{self.output_len}"

    def requests(self, vocabulary: Vocabulary) -> list[PlannedRequest]:
        """Return the requests, with prefixes in random order and each equally often."""
        source = random.Random(self.seed)
        prefixes = [vocabulary.draw(source, self.prefix_len) for _ in range(self.num_prefixes)]
        order = [prefixes[index % self.num_prefixes] for index in range(self.num_requests)]
        source.shuffle(order)
        prompts = (prefix + vocabulary.draw(source, self.suffix_len) for prefix in order)
        return [PlannedRequest(prompt=vocabulary.prompt(ids), max_tokens=self.output_len) for ids in prompts]


Workload = RandomWorkload | SharedPrefixWorkload
