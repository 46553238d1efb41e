"""Takes linears from a checkpoint, several that read the same input stacked into one."""

from collections.abc import Mapping

import torch

from worker.kernels.interface import Kernels, LinearWeight
from worker.weights.checkpoint import Weights


def take_linear(kernels: Kernels, weights: Weights, num_outs: Mapping[str, int], num_in: int) -> LinearWeight:
    """`num_outs` maps each linear's name to its outputs. A bias is used where the checkpoint has one."""
    matrices = [weights.take(f"{name}.weight", (num_out, num_in)) for name, num_out in num_outs.items()]
    biases = [weights.take_optional(f"{name}.bias", (num_out,)) for name, num_out in num_outs.items()]
    if all(bias is None for bias in biases):
        return kernels.pack_linear(torch.cat(matrices))
    filled = [
        torch.zeros(num_out) if bias is None else bias for bias, num_out in zip(biases, num_outs.values(), strict=True)
    ]
    return kernels.pack_linear(torch.cat(matrices), torch.cat(filled))
