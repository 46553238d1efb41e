"""Scoring of a model's windows in float32 and in other modes, one window at a time to save memory."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from bench.quality.comparison import Quality, Tally
from bench.quality.emulation import EXACT, Format
from bench.quality.in_process import EmulatedModel, WindowModel
from pagoda.models.model import Model
from worker.kernels.interface import Kernels

FLOAT32 = "float32: the weights in the file"

Score = Callable[[Sequence[Sequence[int]]], torch.Tensor]
"""Function that returns the log-probabilities [texts * (tokens - 1), V] of texts that are computed alone."""


def measure(
    model: Model,
    windows: Sequence[Sequence[int]],
    beginnings: Sequence[Sequence[int]],
    modes: Mapping[str, Kernels],
    formats: Mapping[str, Format],
) -> list[Quality]:
    """Return the quality of float32, then of the modes, then of the emulated formats.

    `beginnings` count only where the worst positions are sought.
    """
    emulated = EmulatedModel(model)
    scores: dict[str, Score] = {name: WindowModel(model, kernels).logprobs_of_each for name, kernels in modes.items()}
    scores |= {name: partial(emulated.logprobs_of_each, number_format) for name, number_format in formats.items()}
    reference, tallies = Tally(FLOAT32), {name: Tally(name) for name in scores}
    for number, window in enumerate(windows, start=1):
        expected_TV = emulated.logprobs_of_each(EXACT, [window])
        reference.add(expected_TV, expected_TV, window)
        for name, score in scores.items():
            tallies[name].add(score([window]), expected_TV, window)
        print(f"window {number} of {len(windows)}", file=sys.stderr)
    expected_TV = emulated.logprobs_of_each(EXACT, beginnings)
    for name, score in scores.items():
        tallies[name].add_divergence(score(beginnings), expected_TV)
    return [tally.quality() for tally in (reference, *tallies.values())]
