"""The distance of a mode from float32: perplexity, divergence and agreement, collected window by window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import torch

from bench.quality.perplexity import perplexity_of

WORST = 10
"""Number of worst positions whose mean is reported: a single one varies with chance."""
ROWS_PER_PASS = 64
"""Rows whose divergences are computed at once: few, because of the memory that 150,000 tokens in a vocabulary take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The quality of one mode. Changes and agreement are fractions, not percent."""

    name: str
    perplexity: float
    perplexity_second_half: float
    """Perplexity over second halves of windows, as llama-perplexity defines it."""
    perplexity_change: float
    """Change of perplexity relative to float32."""
    perplexity_change_error: float
    """Standard error of the change, from its spread over the windows."""
    mean_kl: float
    """Mean divergence KL(float32 ‖ mode), in nats per token."""
    top1: float
    """Fraction of tokens for which float32 and this mode have the same most probable token."""
    largest_kl: float
    """Divergence at the worst position, of the windows and of the beginnings."""
    ten_largest_kl: float
    """Mean of the divergences at the ten worst positions."""
    num_tokens: int


@dataclass(slots=True)
class Tally:
    """The measurements of one mode, window by window."""

    name: str
    logprobs: list[list[float]] = field(default_factory=list)
    reference_logprobs: list[list[float]] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    same_best: list[float] = field(default_factory=list)
    """`kl` and `same_best` hold means over a window. All windows have the same length."""
    largest_kl: list[float] = field(default_factory=list)
    """The divergences at the ten worst positions, the largest first."""

    def add(self, logprobs_TV: torch.Tensor, reference_TV: torch.Tensor, window: Sequence[int]) -> None:
        chosen_T1 = torch.tensor(window[1:])[:, None]
        self.logprobs.append(logprobs_TV.gather(1, chosen_T1)[:, 0].tolist())
        self.reference_logprobs.append(reference_TV.gather(1, chosen_T1)[:, 0].tolist())
        self.kl.append(float(self.add_divergence(logprobs_TV, reference_TV).mean()))
        self.same_best.append(float((logprobs_TV.argmax(-1) == reference_TV.argmax(-1)).float().mean()))

    def add_divergence(self, logprobs_TV: torch.Tensor, reference_TV: torch.Tensor) -> torch.Tensor:
        """Return the divergence at each position, after adding it to the worst ones."""
        kl_T = torch.empty(len(logprobs_TV))
        for first in range(0, len(kl_T), ROWS_PER_PASS):
            some = slice(first, first + ROWS_PER_PASS)
            kl_T[some] = (reference_TV[some].exp() * (reference_TV[some] - logprobs_TV[some])).sum(dim=-1)
        self.largest_kl = sorted((*self.largest_kl, *kl_T.tolist()), reverse=True)[:WORST]
        return kl_T

    def quality(self) -> Quality:
        """Return the mode's quality. The error needs at least two windows."""
        perplexity = perplexity_of(self.logprobs)
        changes = [
            fmean(reference) - fmean(mode)
            for mode, reference in zip(self.logprobs, self.reference_logprobs, strict=True)
        ]
        return Quality(
            name=self.name,
            perplexity=perplexity.whole,
            perplexity_second_half=perplexity.second_half,
            perplexity_change=math.expm1(fmean(changes)),
            perplexity_change_error=stdev(changes) / math.sqrt(len(changes)),
            mean_kl=fmean(self.kl),
            top1=fmean(self.same_best),
            largest_kl=self.largest_kl[0],
            ten_largest_kl=fmean(self.largest_kl),
            num_tokens=perplexity.num_tokens,
        )
