"""Rotary position embeddings: cosines and sines of the angles, one row per position, in the form that `Kernels.rope` takes.

Legend as in step_batch.py.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch

from pagoda.models.model import RopeScaling
from worker.kernels.interface import Kernels

POSITIONS_PER_PASS = 1024
"""Number of positions computed at once: few enough to stay in a core's cache between operations."""
FIRST_BYTES = 1 << 23
"""Approximate size of a model's first table. The full context of its files may never be used."""
LARGEST_GROWTH = 1 << 17
"""Number of positions by which a table grows at most. They take 0.4 s and 128 MB for heads of 128 elements."""
HALF_PI_PARTS = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)


def first_length(size: int, max_position: int) -> int:
    """Return the number of positions of the first table, for heads of which `size` elements are rotated."""
    return min(max_position, max(POSITIONS_PER_PASS, FIRST_BYTES // (2 * size * 4)))


def next_length(longest: int, max_position: int) -> int:
    """Return the number of positions of a table that holds a sequence of `longest` tokens and leaves room to grow."""
    unit = min(1 << (longest - 1).bit_length(), LARGEST_GROWTH)
    return min(max_position, -(-longest // unit) * unit)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rotation of each token of a step. H is the number of rotated elements of a head."""

    cos_TH: torch.Tensor
    sin_TH: torch.Tensor
    of_queries: "Rotation | None" = None
    """Rotation of the queries if theirs differs from the keys'."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Factors of queries that grow with their position: 1 + share * ln(1 + position // length)."""

    share: float
    length: int

    def factors(self, positions: slice) -> torch.Tensor:
        """Return float32 [P, 1]."""
        counts = (position // self.length for position in range(positions.start, positions.stop))
        return torch.tensor([1 + self.share * math.log1p(count) for count in counts], dtype=torch.float32)[:, None]


@dataclass(frozen=True, slots=True)
class RopeTable:
    cos_PH: torch.Tensor
    """float32 [positions, H], each angle twice."""
    sin_PH: torch.Tensor
    """float32 [positions, H], with the sign of the rotation: [-sin, sin]."""

    @classmethod
    def make(
        cls,
        frequencies: torch.Tensor,
        num_positions: int,
        device: torch.device,
        attention_factor: float = 1.0,
        growth: Growth | None = None,
        shorter: Self | None = None,
    ) -> Self:
        """Compute the table. Cosines and sines are multiplied by `attention_factor`, which YaRN and longrope have.

        They are also multiplied by the growth of each position, if there is one.
        The rows of `shorter`, a table of the same frequencies, are copied.
        """
        cos_PH, sin_PH = torch.empty(2, num_positions, 2 * len(frequencies), device=device).unbind()
        num_known = 0
        if shorter is not None:
            num_known = len(shorter.cos_PH)
            cos_PH[:num_known], sin_PH[:num_known] = shorter.cos_PH, shorter.sin_PH
        for first in range(num_known, num_positions, POSITIONS_PER_PASS):
            some = slice(first, min(first + POSITIONS_PER_PASS, num_positions))
            # The angle is a float32 product, as it was when these models were trained.
            angles = torch.arange(some.start, some.stop, dtype=torch.float32)[:, None] * frequencies
            factors = attention_factor if growth is None else attention_factor * growth.factors(some)
            cos, sin = (part * factors for part in cos_sin(angles.double()))
            cos_PH[some], sin_PH[some] = torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)
        return cls(cos_PH, sin_PH)

    @property
    def num_bytes(self) -> int:
        return self.cos_PH.nbytes + self.sin_PH.nbytes

    def rotation(self, kernels: Kernels, positions_T: torch.Tensor) -> Rotation:
        return Rotation(kernels.gather_rows(self.cos_PH, positions_T), kernels.gather_rows(self.sin_PH, positions_T))


def cos_sin(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 cosines and sines of float64 angles up to 2^20, with the same bits on all machines.

    Math libraries differ in the last bits, so only elementwise IEEE operations are used. Quarter turns are subtracted with
    pi/2 in three parts; the first two have so few bits that their products are exact. On the rest, in [-pi/4, pi/4], the
    Taylor series converges fast.
    """
    quarters = (angles * (2 / math.pi)).round()
    rest = angles
    for part in HALF_PI_PARTS:
        rest = rest - quarters * part
    cos, sin = _taylor(rest, first=0), _taylor(rest, first=1) * rest
    odd, negate_cos, negate_sin = quarters % 2 == 1, (quarters + 1) % 4 >= 2, quarters % 4 >= 2
    cos, sin = torch.where(odd, sin, cos), torch.where(odd, cos, sin)
    return torch.where(negate_cos, -cos, cos).float(), torch.where(negate_sin, -sin, sin).float()


def _taylor(x: torch.Tensor, first: int) -> torch.Tensor:
    """Return cos(x) if `first` is 0, sin(x) / x if it is 1."""
    square = x * x
    total = torch.zeros_like(x)
    for power in range(16 + first, first, -2):
        total = (total + 1.0) * square * (-1.0 / (power * (power - 1)))
    return total + 1.0


def rope_frequencies(
    size: int, theta: float, scaling: RopeScaling | None = None, served_length: int = 0
) -> torch.Tensor:
    """Return float32 [H/2], in radians per position, for the `size` elements of a head that are rotated.

    Dynamic scaling and longrope depend on the longest sequence that is served, not on each sequence's own length, so that a
    token's keys do not change while its sequence grows.
    """
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    frequencies = theta**-exponents
    match scaling:
        case None:
            pass
        case RopeScaling(rope_type="linear"):
            frequencies = frequencies / scaling.factor
        case RopeScaling(rope_type="llama3"):
            frequencies = _scale_llama3(frequencies, scaling)
        case RopeScaling(rope_type="yarn"):
            frequencies = _scale_yarn(frequencies, theta, scaling)
        case RopeScaling(rope_type="longrope"):
            is_long = served_length > scaling.original_max_position
            factors = scaling.long_factors if is_long else scaling.short_factors
            frequencies = frequencies / torch.tensor(factors, dtype=torch.float64)
        case RopeScaling(rope_type="dynamic"):
            frequencies = _dynamic_theta(size, theta, scaling, served_length) ** -exponents
        case RopeScaling(rope_type=other):
            raise ValueError(f"unsupported rope scaling {other!r}; supported: linear, llama3, yarn, longrope, dynamic")
    return frequencies.float()


def dependence_on_length(scaling: RopeScaling | None, served_length: int) -> str:
    """Return a suffix for `numerics_id` that differs if the frequencies do; empty if the served length does not matter."""
    match scaling:
        case RopeScaling(rope_type="longrope") if scaling.short_factors != scaling.long_factors:
            return "-long-rope" if served_length > scaling.original_max_position else "-short-rope"
        case RopeScaling(rope_type="dynamic") if served_length > scaling.original_max_position:
            return f"-rope-{served_length}"
    return ""


def _scale_llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Divide low frequencies by the factor and keep high ones, with a linear transition between them."""
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    high_share = ((turns - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
    return frequencies * (high_share + (1 - high_share) / scaling.factor)


def _scale_yarn(frequencies: torch.Tensor, theta: float, scaling: RopeScaling) -> torch.Tensor:
    """Divide low frequencies by the factor and keep high ones, with a transition that is linear in the pair's index.

    It begins at the pair that turns `beta_fast` times within the original context, and ends at `beta_slow`.
    """
    size = 2 * len(frequencies)

    def pair_that_turns(times: float) -> float:
        return size * math.log(scaling.original_max_position / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    span = last - first or 0.001
    low_share = ((torch.arange(size // 2, dtype=torch.float64) - first) / span).clamp(0.0, 1.0)
    return frequencies * (1 - low_share + low_share / scaling.factor)


def _dynamic_theta(size: int, theta: float, scaling: RopeScaling, served_length: int) -> float:
    share = max(served_length / scaling.original_max_position, 1.0)
    base: float = theta * (scaling.factor * share - (scaling.factor - 1)) ** (size / (size - 2))
    return base
