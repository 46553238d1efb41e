"""Workloads for comparing routing policies: requests with arrival times, the same for the same seed."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

TOKEN_IDS = range(1000, 50_000)
TRACE_BLOCK = 512
"""Prompt tokens per hash id of a Mooncake trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRequest:
    arrival_s: float
    prompt: list[int]
    max_tokens: int
    num_samples: int = 1
    is_measured: bool = True
    """False for the requests that fill the caches first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedWorkload:
    name: str
    requests: list[TimedRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A Poisson process of requests, after warm-up requests that fill the caches at a rate that leaves time to compute them."""

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
    """Return llm-d's workload: each group shares a long prefix, each user adds a prefix of their own and sends it repeatedly."""
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
    """Return vLLM's workload: a few prefixes, each time with a new suffix. If skewed, the n-th prefix has weight 1/n."""
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
    """Return prompts of different lengths that have nothing in common."""
    source = random.Random(load.seed)
    prompts = [draw(source, source.randint(prompt_len // 2, prompt_len * 3 // 2)) for _ in range(load.num_requests)]
    name = f"no reuse, about {prompt_len} in, {max_tokens} out"
    return TimedWorkload(name=name, requests=load.requests([], prompts, max_tokens))


def best_of(*, num_samples: int, prompt_len: int, max_tokens: int, load: Load) -> TimedWorkload:
    """Return new prompts with several samples each."""
    source = random.Random(load.seed)
    prompts = [draw(source, prompt_len) for _ in range(load.num_requests)]
    name = f"best of {num_samples}, {prompt_len} in, {max_tokens} out"
    requests = [replace(each, num_samples=num_samples) for each in load.requests([], prompts, max_tokens)]
    return TimedWorkload(name=name, requests=requests)


def mooncake(trace: Path, *, scale: float, speed: float) -> TimedWorkload:
    """Return a trace with its lengths multiplied by `scale`, `speed` times as fast. Equal hash ids give equal tokens."""
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
    """Return the tokens of the hash ids. An id identifies a block and all before it, so it alone determines the block's tokens."""
    tokens: list[int] = []
    for hash_id in hash_ids:
        tokens += draw(random.Random(hash_id), block_len)
    return tokens[: max(1, length)]
