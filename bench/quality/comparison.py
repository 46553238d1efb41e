"""How far a mode is from float32: perplexity, divergence and agreement, gathered window by window.

Knows nothing about how either was computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import torch

from bench.quality.perplexity import perplexity_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Of one mode. Shares, not percent."""

    name: str
    perplexity: float
    perplexity_second_half: float
    """In llama-perplexity's definition."""
    perplexity_change: float
    """Against float32."""
    perplexity_change_error: float
    """One standard error of the change, from its spread over the windows."""
    mean_kl: float
    """Of float32's distribution from this mode's, in nats per token."""
    top1: float
    """How often float32's most probable token is this mode's too."""
    num_tokens: int


@dataclass(slots=True)
class Tally:
    name: str
    logprobs: list[list[float]] = field(default_factory=list)
    reference_logprobs: list[list[float]] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    same_best: list[float] = field(default_factory=list)
    """These two as means over a window: all windows are of one length."""

    def add(self, logprobs_TV: torch.Tensor, reference_TV: torch.Tensor, window: Sequence[int]) -> None:
        chosen_T1 = torch.tensor(window[1:])[:, None]
        self.logprobs.append(logprobs_TV.gather(1, chosen_T1)[:, 0].tolist())
        self.reference_logprobs.append(reference_TV.gather(1, chosen_T1)[:, 0].tolist())
        self.kl.append(float((reference_TV.exp() * (reference_TV - logprobs_TV)).sum(dim=-1).mean()))
        self.same_best.append(float((logprobs_TV.argmax(-1) == reference_TV.argmax(-1)).float().mean()))

    def quality(self) -> Quality:
        """Needs two windows, for the error."""
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
