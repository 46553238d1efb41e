"""The mixture of experts: the router's and the experts' forms, an exact router, and the experts by other kernels.

A router scores each expert by a product with the token's row, and the experts with the largest scores compute. Two scores may
be nearly equal, and one different bit would then choose another expert: an error that no rounding explains. So the integer mode
computes scores exactly. Rows of the input and of the router are rounded to integers with L levels, where 2 log2 L + log2 D <=
52: each sum of D products is exact in float64, in any order. With D = 4096 that is 20 bits on each side. Everything
after the sum is a sequence of single IEEE operations, so the choice depends on the token alone. Of equal scores the lowest
expert wins.

A routing is one tensor [T, E]: the weight of each expert for each token, zero for experts that do not compute. If the router
also gates a shared expert, column E holds that gate.

Legend as in step_batch.py; E experts, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from worker.kernels.fixed_point import LOG2_E, constant, exp2_, round_rows
from worker.kernels.interface import LinearWeight

MAX_LEVELS_BITS = 22
SUM_BITS = 52


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRouter:
    """The router's rows, as floats or as integers with scales, and how many experts compute for each token."""

    rows_ED: torch.Tensor
    """One row for each expert, then the shared expert's gate if there is one."""
    scale_E: torch.Tensor | None = None
    num_experts: int
    num_used: int
    renormalizes: bool
    """True if the weights of the experts that compute sum to one."""

    @property
    def num_bytes(self) -> int:
        return self.rows_ED.nbytes + (0 if self.scale_E is None else self.scale_E.nbytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedExperts:
    """The linears of each expert."""

    gate: Sequence[LinearWeight]
    up: Sequence[LinearWeight]
    down: Sequence[LinearWeight]
    num_used: int
    """Largest number of experts that compute for one token."""
    tables: Any = None
    """The implementation's own form of the linears above, opaque to other code."""

    @property
    def num_bytes(self) -> int:
        return sum(linear.num_bytes for linears in (self.gate, self.up, self.down) for linear in linears)


class LinearKernels(Protocol):
    """The kernels of which an expert consists."""

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor: ...

    def silu_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor: ...


def router_levels(size: int) -> int:
    """Return the levels to which rows of this size are rounded before they are multiplied."""
    return 1 << min(MAX_LEVELS_BITS, (SUM_BITS - (size - 1).bit_length()) // 2)


def round_router(router: PackedRouter) -> PackedRouter:
    """Return the router with its rows as integers."""
    integers_ED, scale_E1 = round_rows(router.rows_ED, router_levels(router.rows_ED.shape[1]))
    return PackedRouter(
        rows_ED=integers_ED.contiguous(),
        scale_E=scale_E1.flatten(),
        num_experts=router.num_experts,
        num_used=router.num_used,
        renormalizes=router.renormalizes,
    )


def exact_scores(x_TD: torch.Tensor, router: PackedRouter) -> torch.Tensor:
    assert router.scale_E is not None
    integers_TD, scale_T1 = round_rows(x_TD, router_levels(x_TD.shape[1]))
    sums_TE = integers_TD.double() @ router.rows_ED.double().T
    return sums_TE.mul_(scale_T1).mul_(router.scale_E).float()


def exact_routing(scores_TE: torch.Tensor, router: PackedRouter) -> torch.Tensor:
    """Return the routing of scores, with one IEEE operation at a time; sums are in the order of the experts."""
    num_experts = router.num_experts
    gate_T1, scores_TE = scores_TE[:, num_experts:], scores_TE[:, :num_experts].clone()
    # A token with NaN routes nowhere sensible. Its weights are NaN, so that its result is.
    scores_TE[scores_TE.isnan().any(dim=1)] = torch.nan
    is_used_TE = used_experts(scores_TE, router.num_used)
    largest_T1 = scores_TE.amax(dim=1, keepdim=True)
    powers_TE = exp2_((scores_TE - largest_T1).mul_(constant(LOG2_E)))
    used_TE = powers_TE.where(is_used_TE, 0.0)
    total_T1 = torch.zeros_like(largest_T1)
    for power_T in (used_TE if router.renormalizes else powers_TE).unbind(1):
        total_T1 = total_T1 + power_T[:, None]
    weights_TE = (used_TE / total_T1).where(is_used_TE, 0.0)
    shares_T1 = constant(1.0) / exp2_(gate_T1 * constant(-LOG2_E)).add_(constant(1.0))
    return torch.cat((weights_TE, shares_T1), dim=1)


def float_routing(scores_TE: torch.Tensor, router: PackedRouter) -> torch.Tensor:
    """Return the routing of scores in plain torch."""
    gate_T1, scores_TE = scores_TE[:, router.num_experts :], scores_TE[:, : router.num_experts]
    weights_TE = scores_TE.softmax(dim=1).where(used_experts(scores_TE, router.num_used), 0.0)
    if router.renormalizes:
        weights_TE = weights_TE / weights_TE.sum(dim=1, keepdim=True)
    return torch.cat((weights_TE, gate_T1.sigmoid()), dim=1)


def used_experts(scores_TE: torch.Tensor, num_used: int) -> torch.Tensor:
    """Return which experts have the largest scores; of equal ones the first."""
    order_TE = scores_TE.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(scores_TE, dtype=torch.bool).scatter_(1, order_TE[:, :num_used], True)


def experts_by_linears(
    kernels: LinearKernels,
    x_TD: torch.Tensor,
    routing_TE: torch.Tensor,
    experts: PackedExperts,
    shared_TD: torch.Tensor | None,
) -> torch.Tensor:
    """Return the weighted sum of the experts' results, added in the order of the experts."""
    num_experts = len(experts.down)
    out_TD = torch.zeros_like(x_TD) if shared_TD is None else shared_TD * routing_TE[:, num_experts:]
    for index, linears in enumerate(zip(experts.gate, experts.up, experts.down, strict=True)):
        rows_X = routing_TE[:, index].nonzero().flatten()
        if len(rows_X):
            gate, up, down = linears
            x_XD = x_TD[rows_X]
            gate_up_XF = torch.cat((kernels.linear(x_XD, gate), kernels.linear(x_XD, up)), dim=1)
            y_XD = kernels.linear(kernels.silu_mul(gate_up_XF), down)
            out_TD[rows_X] += y_XD.mul_(routing_TE[rows_X, index, None])
    return out_TD
