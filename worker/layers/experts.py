"""The mixture of experts in the place of an MLP: a router, its experts, and an MLP for all tokens if the family has one.

Legend as in step_batch.py; E experts, F their intermediate size.
"""

from collections.abc import Iterator

import torch

from pagoda.models.model import ExpertsConfig
from worker.kernels.interface import Experts, Router
from worker.layers.mlp import MLP
from worker.layers.source import LayerSource
from worker.weights.linear_format import StoredWeight


class MixtureOfExperts:
    def __init__(self, source: LayerSource, config: ExpertsConfig) -> None:
        self._kernels = source.kernels
        self._gates_shared = config.gates_shared
        self._router = _take_router(source, config)
        self._experts = _take_experts(source, config)
        self._shared = _take_shared(source, config.shared_size) if config.shared_size else None

    @property
    def num_bytes(self) -> int:
        shared_bytes = 0 if self._shared is None else self._shared.num_bytes
        return self._router.num_bytes + self._experts.num_bytes + shared_bytes

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        kernels = self._kernels
        routing_TE = kernels.route(x_TD, self._router)
        shared_TD = None if self._shared is None else self._shared.forward(x_TD)
        if shared_TD is None or self._gates_shared:
            return kernels.experts(x_TD, routing_TE, self._experts, shared_TD)
        return kernels.add(kernels.experts(x_TD, routing_TE, self._experts), shared_TD)


def _take_router(source: LayerSource, config: ExpertsConfig) -> Router:
    hidden, gate = source.config.hidden_size, None
    weight = source.take_matrix("router.weight", (config.num_experts, hidden))
    if config.gates_shared:
        gate = source.take_row("shared_gate.weight", hidden)
    router = source.kernels.pack_router(weight, config.num_used, renormalizes=config.renormalizes, shared_gate=gate)
    source.release("router.weight")
    return router


def _take_experts(source: LayerSource, config: ExpertsConfig) -> Experts:
    num_experts, inner, hidden = config.num_experts, config.intermediate_size, source.config.hidden_size
    joined = "experts.gate_up.weight"
    if is_joined := source.has(joined):
        stack = source.take_stack(joined, (num_experts, 2 * inner, hidden))
        gates, ups = (_split(stack, 2 * inner, first, inner) for first in (0, inner))
    else:
        gates, ups = (_take_each(source, part, (num_experts, inner, hidden)) for part in ("gate", "up"))
    downs = _take_each(source, "down", (num_experts, hidden, inner))
    experts = source.kernels.pack_experts(gates, ups, downs, config.num_used)
    if is_joined:
        source.release(joined)
    return experts


def _take_each(source: LayerSource, part: str, shape: tuple[int, int, int]) -> Iterator[StoredWeight]:
    """Yield a matrix of each expert. Each is released when the next is asked for, so that few are in memory at a time."""
    num_experts, num_out, num_in = shape
    name = f"experts.{part}.weight"
    if source.has(name) or not source.has(f"experts.0.{part}.weight"):
        yield from _split(source.take_stack(name, shape), num_out, 0, num_out)
        source.release(name)
        return
    for expert in range(num_experts):
        name = f"experts.{expert}.{part}.weight"
        yield source.take_matrix(name, (num_out, num_in))
        source.release(name)


def _split(stack: StoredWeight, stride: int, first: int, num_out: int) -> Iterator[StoredWeight]:
    """Yield rows `first` to `first + num_out` of every `stride` rows."""
    for start in range(first, stack.shape[0], stride):
        yield stack.rows(start, start + num_out)


def _take_shared(source: LayerSource, size: int) -> MLP:
    hidden = source.config.hidden_size
    inputs = (
        {"shared.gate_up": 2 * size}
        if source.has("shared.gate_up.weight")
        else {"shared.gate": size, "shared.up": size}
    )
    return MLP(source, source.take_linear(inputs, hidden), source.take_linear({"shared.down": hidden}, size))
