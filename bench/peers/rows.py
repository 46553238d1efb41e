"""The rows of the comparison's table: the workloads that every server gets.

Each row and each round has prompts of its own, so that no cache holds them. Only the row with shared prefixes repeats
tokens.
"""

import math
from dataclasses import dataclass, replace

from bench.workloads import RandomWorkload, SharedPrefixWorkload, Workload

SEEDS_PER_ROUND = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    workload: Workload
    concurrency: int

    @property
    def max_sequence_len(self) -> int:
        return self.input_len + self.workload.output_len

    @property
    def input_len(self) -> int:
        match self.workload:
            case RandomWorkload(input_len=length):
                return length
            case SharedPrefixWorkload(prefix_len=prefix, suffix_len=suffix):
                return prefix + suffix

    @property
    def num_computed_prompt_tokens(self) -> int:
        """Prompt tokens of all requests, if shared prefixes are computed once."""
        match self.workload:
            case RandomWorkload(num_requests=number, input_len=length):
                return number * length
            case SharedPrefixWorkload(num_requests=number, num_prefixes=prefixes, prefix_len=prefix, suffix_len=suffix):
                return prefixes * prefix + number * suffix

    def warm_up(self, round_number: int) -> RandomWorkload:
        """Return short requests at the row's concurrency, so that the server does one-time work before the measurement."""
        seed = self.workload.seed + SEEDS_PER_ROUND * round_number + SEEDS_PER_ROUND // 2
        return RandomWorkload(num_requests=self.concurrency, input_len=16, output_len=8, seed=seed)

    def in_round(self, round_number: int) -> Workload:
        """Return the workload with prompts for this round."""
        return replace(self.workload, seed=self.workload.seed + SEEDS_PER_ROUND * round_number)


def rows(scale: float = 1.0) -> list[Row]:
    """Return all rows. With `scale` 1 each takes 20 to 60 s on two cores with a model of 135 million parameters."""
    return [
        _random(concurrency=1, num_requests=40, scale=scale),
        _random(concurrency=8, num_requests=96, scale=scale),
        _random(concurrency=32, num_requests=160, scale=scale),
        _random(concurrency=64, num_requests=192, scale=scale),
        _shared(concurrency=8, num_requests=96, scale=scale),
        _random(concurrency=1, num_requests=8, scale=scale, input_len=2000),
        _random(concurrency=8, num_requests=16, scale=scale, input_len=2000),
    ]


def _random(*, concurrency: int, num_requests: int, scale: float, input_len: int = 128) -> Row:
    workload = RandomWorkload(
        num_requests=_scaled(num_requests, scale, concurrency),
        input_len=input_len,
        output_len=64,
        seed=input_len + concurrency,
    )
    return Row(name=f"{concurrency} at once, {input_len} in, 64 out", workload=workload, concurrency=concurrency)


def _shared(*, concurrency: int, num_requests: int, scale: float) -> Row:
    workload = SharedPrefixWorkload(
        num_requests=_scaled(num_requests, scale, concurrency),
        num_prefixes=4,
        prefix_len=512,
        suffix_len=64,
        output_len=32,
        seed=512,
    )
    name = f"{concurrency} at once, four shared prefixes of 512 + 64 own, 32 out"
    return Row(name=name, workload=workload, concurrency=concurrency)


def _scaled(num_requests: int, scale: float, at_least: int) -> int:
    return max(at_least, math.ceil(num_requests * scale))
