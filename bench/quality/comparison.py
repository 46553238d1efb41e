"""The distance of a mode from float32: perplexity, divergence and agreement, collected window by window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import torch

from bench.quality.perplexity import perplexity_of


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

    def add(self, logprobs_TV: torch.Tensor, reference_TV: torch.Tensor, window: Sequence[int]) -> None:
        chosen_T1 = torch.tensor(window[1:])[:, None]
        self.logprobs.append(logprobs_TV.gather(1, chosen_T1)[:, 0].tolist())
        self.reference_logprobs.append(reference_TV.gather(1, chosen_T1)[:, 0].tolist())
        self.kl.append(float((reference_TV.exp() * (reference_TV - logprobs_TV)).sum(dim=-1).mean()))
        self.same_best.append(float((logprobs_TV.argmax(-1) == reference_TV.argmax(-1)).float().mean()))

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
            num_tokens=perplexity.num_tokens,
        )
