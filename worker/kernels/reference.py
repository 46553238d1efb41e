"""The reference implementation: torch in float32, one plain expression per kernel. All others are compared with it.

It agrees with other float32 implementations up to rounding. Its bits depend on the batch, as theirs do: a matrix library
chooses the order of its sums by shape.

Legend as in step_batch.py and attention_plan.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from worker.kernels.attention_plan import AttentionGroup, AttentionPlanner
from worker.kernels.interface import Embedding, Experts, Forward, LayerKV, LinearWeight, Router
from worker.kernels.mixture import PackedExperts, PackedRouter, experts_by_linears, float_routing
from worker.kernels.step_batch import StepBatch
from worker.weights.linear_format import Weight, as_matrix


@dataclass(frozen=True, slots=True)
class Float32Linear:
    weight_OI: torch.Tensor
    bias_O: torch.Tensor | None

    @property
    def num_bytes(self) -> int:
        return self.weight_OI.nbytes + (0 if self.bias_O is None else self.bias_O.nbytes)


class ReferenceKernels:
    numerics_id = "float32"
    is_batch_invariant = False
    device = torch.device("cpu")

    def __init__(self) -> None:
        self._planner = AttentionPlanner()

    def prepare(self, forward: Forward) -> Forward:
        return forward

    def pack_linear(self, weights: Weight | Sequence[Weight], bias_O: torch.Tensor | None = None) -> LinearWeight:
        return Float32Linear(as_matrix(weights), bias_O)

    def pack_embedding(self, weight: Weight) -> Embedding:
        return self.pack_linear(weight)

    def tied_output(self, embedding: Embedding) -> LinearWeight:
        return embedding

    def pack_router(
        self, weight: Weight, num_used: int, *, renormalizes: bool, shared_gate: Weight | None = None
    ) -> Router:
        rows_ED = as_matrix([weight] if shared_gate is None else [weight, shared_gate]).to(self.device)
        return PackedRouter(rows_ED=rows_ED, num_experts=weight.shape[0], num_used=num_used, renormalizes=renormalizes)

    def pack_experts(
        self, gate: Iterable[Weight], up: Iterable[Weight], down: Iterable[Weight], num_used: int
    ) -> Experts:
        gates, ups, downs = ([self.pack_linear(weight) for weight in weights] for weights in (gate, up, down))
        return PackedExperts(gate=gates, up=ups, down=downs, num_used=num_used)

    def embed(self, embedding: Embedding, token_ids_T: torch.Tensor) -> torch.Tensor:
        assert isinstance(embedding, Float32Linear)
        return embedding.weight_OI[token_ids_T]

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, Float32Linear)
        return F.linear(x_TI, weight.weight_OI, weight.bias_O)

    def rms_norm(self, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        return F.rms_norm(x_TD, (x_TD.shape[-1],), eps=eps) * weight_D

    def add(self, x_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor:
        return x_TD + y_TD

    def scale(self, x_TD: torch.Tensor, factor: float) -> torch.Tensor:
        return x_TD * factor

    def cap(self, x_TD: torch.Tensor, cap: float) -> torch.Tensor:
        return cap * torch.tanh(x_TD / cap)

    def silu_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up_TI.chunk(2, dim=-1)
        return F.silu(gate) * up

    def gelu_tanh_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up_TI.chunk(2, dim=-1)
        return F.gelu(gate, approximate="tanh") * up

    def route(self, x_TD: torch.Tensor, router: Router) -> torch.Tensor:
        assert isinstance(router, PackedRouter)
        return float_routing(F.linear(x_TD, router.rows_ED), router)

    def experts(
        self, x_TD: torch.Tensor, routing_TE: torch.Tensor, experts: Experts, shared_TD: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert isinstance(experts, PackedExperts)
        return experts_by_linears(self, x_TD, routing_TE, experts, shared_TD)

    def rope(self, x_TNH: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
        size = cos_TH.shape[-1]
        rotated, rest = x_TNH[..., :size], x_TNH[..., size:]
        rotated = rotated * cos_TH[:, None] + rotated.roll(size // 2, dims=-1) * sin_TH[:, None]
        return torch.cat((rotated, rest), dim=-1)

    def allocate_kv(self, num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> LayerKV:
        return torch.zeros(num_pages, 2 * num_kv_heads, page_size, head_size)

    def kv_bytes_per_page(self, page_size: int, num_kv_heads: int, head_size: int) -> int:
        return 2 * num_kv_heads * page_size * head_size * 4

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        assert isinstance(kv, torch.Tensor)
        head_size = kv.shape[-1]
        slot_rows = self._planner.slot_rows(batch, page_size=kv.shape[2], num_kv_heads=kv.shape[1] // 2)
        kv.view(-1, head_size)[slot_rows] = torch.stack((k_TNH, v_TNH)).view(-1, head_size)

    def attention(
        self,
        q_TNH: torch.Tensor,
        kv: LayerKV,
        batch: StepBatch,
        scale: float,
        window: int | None = None,
        logit_cap: float | None = None,
    ) -> torch.Tensor:
        assert isinstance(kv, torch.Tensor)
        out_TNH = torch.empty(q_TNH.shape)
        for group in self._planner.groups(batch, page_size=kv.shape[2], num_kv_heads=kv.shape[1] // 2, window=window):
            out_TNH[group.query_rows] = self._attend(q_TNH[group.query_rows], kv, group, scale, logit_cap)
        return out_TNH

    def gather_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        return x_TD[rows_R]

    def _attend(
        self, q_XNH: torch.Tensor, kv: torch.Tensor, group: AttentionGroup, scale: float, logit_cap: float | None
    ) -> torch.Tensor:
        """Return the attention of X = S * Q queries, [X, N, H]."""
        num_heads, head_size = q_XNH.shape[1:]
        S, Q, L, K = group.num_sequences, group.num_queries, group.num_keys, kv.shape[1] // 2
        keys, values = kv.flatten(0, 1)[group.page_rows].view(2, S, K, L, head_size)
        queries = q_XNH.view(S, Q, K, -1, head_size).transpose(1, 2).reshape(S, K, -1, head_size)
        scores = (queries @ keys.transpose(-1, -2)).mul_(scale).view(S, K, Q, -1, L)
        if logit_cap is not None:
            scores = self.cap(scores, logit_cap)
        weights = scores.masked_fill_(group.hidden, float("-inf")).softmax(dim=-1).view(S, K, -1, L)
        out: torch.Tensor = (weights @ values).view(S, K, Q, -1, head_size)
        return out.transpose(1, 2).reshape(S * Q, num_heads, head_size)
