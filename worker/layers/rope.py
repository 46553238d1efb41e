"""Rotary positions: the angles' cosines and sines, one row per position, as `Kernels.rope` wants them.

Legend as in batch.py.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch

from pagoda.models.model import ModelConfig, RopeScaling


@dataclass(frozen=True, slots=True)
class RopeTable:
    cos_PH: torch.Tensor
    """float32 [positions, H], each angle twice."""
    sin_PH: torch.Tensor
    """Likewise, with the sign of the rotation: [-sin, sin]."""

    @classmethod
    def make(cls, config: ModelConfig) -> Self:
        frequencies = rope_frequencies(config)
        # The angle is a float32 product, as where these models were trained; only its cosine is taken in float64.
        angles = torch.arange(config.max_position, dtype=torch.float32)[:, None] * frequencies
        cos, sin = angles.double().cos().float(), angles.double().sin().float()
        return cls(torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1))

    @property
    def num_bytes(self) -> int:
        return self.cos_PH.nbytes + self.sin_PH.nbytes


def rope_frequencies(config: ModelConfig) -> torch.Tensor:
    """float32 [H/2]: radians per position."""
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.float64) / config.head_size
    frequencies = config.rope_theta**-exponents
    match config.rope_scaling:
        case None:
            pass
        case RopeScaling(rope_type="linear"):
            frequencies = frequencies / config.rope_scaling.factor
        case RopeScaling(rope_type="llama3"):
            frequencies = _scale_llama3(frequencies, config.rope_scaling)
        case RopeScaling(rope_type=other):
            raise ValueError(f"unknown rope scaling {other!r}; known: linear, llama3")
    return frequencies.float()


def _scale_llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Low frequencies are divided by the factor, high ones stay, between them it goes over smoothly."""
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    high_share = ((turns - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
    return frequencies * (high_share + (1 - high_share) / scaling.factor)
