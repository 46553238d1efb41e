"""What the policies are compared on: requests with the moment at which each arrives, the same for the same seed.

Knows nothing about workers and policies.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

TOKEN_IDS = range(1000, 50_000)
TRACE_BLOCK = 512
"""Prompt tokens that one hash id of a Mooncake trace stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRequest:
    arrival_s: float
    prompt: list[int]
    max_tokens: int
    num_samples: int = 1
    is_measured: bool = True
    """Others come first, to fill the caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedWorkload:
    name: str
    requests: list[TimedRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A Poisson process, behind what fills the caches at a rate that leaves time to compute it."""

    per_s: float
    num_requests: int
    warm_up_per_s: float = 1.0
    seed: int = 0

    def requests(self, warm_up: Sequence[list[int]], later: Sequence[list[int]], max_tokens: int) -> list[TimedRequest]:
        arrivals = random.Random(self.seed)
        requests = [
            TimedRequest(arrival_s=number / self.warm_up_per_s, prompt=prompt, max_tokens=max_tokens, is_measured=False)
            for number, prompt in enumerate(warm_up)
        ]
        now_s = len(warm_up) / self.warm_up_per_s
        for prompt in later:
            now_s += arrivals.expovariate(self.per_s)
            requests.append(TimedRequest(arrival_s=now_s, prompt=prompt, max_tokens=max_tokens))
        return requests


def draw(source: random.Random, length: int) -> list[int]:
    return source.choices(TOKEN_IDS, k=length)


def groups(
    *,
    num_groups: int,
    users_per_group: int,
    shared_len: int,
    own_len: int,
    max_tokens: int,
    load: Load,
) -> TimedWorkload:
    """llm-d's shape: each group shares a long beginning, each of its users goes on with an own one, and asks again and again."""
    source = random.Random(load.seed)
    prompts = [
        shared + draw(source, own_len)
        for shared in (draw(source, shared_len) for _ in range(num_groups))
        for _ in range(users_per_group)
    ]
    source.shuffle(prompts)
    later = [source.choice(prompts) for _ in range(load.num_requests)]
    name = f"{num_groups} groups x {users_per_group} users, {shared_len}+{own_len} in, {max_tokens} out"
    return TimedWorkload(name=name, requests=load.requests(prompts, later, max_tokens))


def prefix_repetition(
    *, num_prefixes: int, prefix_len: int, suffix_len: int, max_tokens: int, load: Load, is_skewed: bool = False
) -> TimedWorkload:
    """vLLM's shape: a few beginnings, each time with an ending of its own. Skewed, the n-th is asked for 1/n as often."""
    source = random.Random(load.seed)
    prefixes = [draw(source, prefix_len) for _ in range(num_prefixes)]
    weights = [1 / rank if is_skewed else 1.0 for rank in range(1, num_prefixes + 1)]
    chosen = source.choices(prefixes, weights, k=load.num_requests)
    prompts = [prefix + draw(source, suffix_len) for prefix in prefixes]
    later = [prefix + draw(source, suffix_len) for prefix in chosen]
    skewed = ", a few of them hot" * is_skewed
    name = f"{num_prefixes} prefixes{skewed}, {prefix_len}+{suffix_len} in, {max_tokens} out"
    return TimedWorkload(name=name, requests=load.requests(prompts, later, max_tokens))


def strangers(*, prompt_len: int, max_tokens: int, load: Load) -> TimedWorkload:
    """Nothing in common between any two prompts, and lengths that vary."""
    source = random.Random(load.seed)
    prompts = [draw(source, source.randint(prompt_len // 2, prompt_len * 3 // 2)) for _ in range(load.num_requests)]
    name = f"no reuse, about {prompt_len} in, {max_tokens} out"
    return TimedWorkload(name=name, requests=load.requests([], prompts, max_tokens))


def best_of(*, num_samples: int, prompt_len: int, max_tokens: int, load: Load) -> TimedWorkload:
    """Each prompt is new, and asked for several answers at once."""
    source = random.Random(load.seed)
    prompts = [draw(source, prompt_len) for _ in range(load.num_requests)]
    name = f"best of {num_samples}, {prompt_len} in, {max_tokens} out"
    requests = [replace(each, num_samples=num_samples) for each in load.requests([], prompts, max_tokens)]
    return TimedWorkload(name=name, requests=requests)


def mooncake(trace: Path, *, scale: float, speed: float) -> TimedWorkload:
    """A trace, its lengths multiplied by `scale`, `speed` times as fast. Equal hash ids stay equal tokens."""
    with trace.open() as lines:
        records = [json.loads(line) for line in lines]
    block_len = round(TRACE_BLOCK * scale)
    requests = [
        TimedRequest(
            arrival_s=record["timestamp"] / 1000 / speed,
            prompt=_tokens_of(record["hash_ids"], block_len, round(record["input_length"] * scale)),
            max_tokens=max(1, round(record["output_length"] * scale)),
        )
        for record in records
    ]
    return TimedWorkload(name=f"{trace.stem}, {len(requests)} requests, lengths x {scale:g}", requests=requests)


def _tokens_of(hash_ids: Iterable[int], block_len: int, length: int) -> list[int]:
    """A hash id stands for a block and all before it; so each draws its own tokens, and blocks are equal where ids are."""
    tokens: list[int] = []
    for hash_id in hash_ids:
        tokens += draw(random.Random(hash_id), block_len)
    return tokens[: max(1, length)]
