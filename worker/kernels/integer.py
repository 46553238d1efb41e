"""The default numerics mode: bits depend only on the sequence, never on the batch, the chunking, the padding or the library.

Each sum is over integers small enough to be exact in its accumulator, so the order of summation does not matter; everything
else is an elementwise IEEE operation. The scale with which a number is rounded to an integer comes from its own row: a token's
block, or a token's head. Another implementation with the same integers and the same elementwise operations gives the same bits
and has the same `numerics_id`. Attention is in integer_attention.py.

Budgets, in bits, for a sum over n terms:
  linear     within a block 7 + 7 + 6, see hadamard_int8.py, or 7 + 7 + 5 for weights that are integers in the file, see grouped.py;
             blocks are added one after the other, in order.
  rms_norm   levels 2^b with 2 b + log2 n <= 52, in float64.
  route      the same on both sides of each product, see mixture.py.

Legend as in step_batch.py; I, O inner and outer dimension of a linear.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from worker.kernels.attention_plan import AttentionPlanner
from worker.kernels.fixed_point import LOG2_E, constant, exp2_, round_rows, sqrt_, tanh_
from worker.kernels.grouped import GroupedMatrix, multiply_grouped, pack_grouped
from worker.kernels.hadamard_int8 import ByteMatrix, IntegerLinear, multiply_bytes, pack_bytes
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS, IntegerAttention, IntegerKV, KVFormat
from worker.kernels.interface import Embedding, Experts, Forward, LayerKV, LinearWeight, Router
from worker.kernels.mixture import (
    PackedExperts,
    PackedRouter,
    exact_routing,
    exact_scores,
    experts_by_linears,
    round_router,
)
from worker.kernels.scratch import Scratch
from worker.kernels.step_batch import StepBatch
from worker.weights.grouped import GroupedWeight
from worker.weights.linear_format import StoredWeight, Weight, as_list, as_matrix, in_order

GELU_INNER, GELU_CUBE = 0.7978845608028654, 0.044715
"""gelu(x) ~ x * (1 + tanh(u)) / 2 = x / (1 + e^-2u) with u = INNER * (x + CUBE * x^3)."""


def norm_levels(size: int) -> int:
    """Return the levels to which a row of this size is rounded before it is squared and summed."""
    return 1 << min(22, (52 - (size - 1).bit_length()) // 2)


@dataclass(frozen=True, slots=True)
class FloatEmbedding:
    """The embedding of a file that has it in floats, in the file's type. Other embeddings are packed linears."""

    table_VD: torch.Tensor

    @property
    def num_bytes(self) -> int:
        return self.table_VD.nbytes


class IntegerKernels:
    is_batch_invariant = True
    device = torch.device("cpu")

    def __init__(self, kv_format: KVFormat = KV_FORMATS[DEFAULT_KV_DTYPE]) -> None:
        self.numerics_id = f"integer-a8-{kv_format.name}-3"
        self._kv_format = kv_format
        self._scratch = Scratch()
        self._planner = AttentionPlanner()
        self._attention = IntegerAttention(self._scratch)

    def prepare(self, forward: Forward) -> Forward:
        return forward

    def pack_linear(self, weights: Weight | Sequence[Weight], bias_O: torch.Tensor | None = None) -> LinearWeight:
        several = as_list(weights)
        matrices, num_out = [self._pack(weight) for weight in several], sum(weight.shape[0] for weight in several)
        num_bytes = sum(matrix.num_bytes for matrix in matrices)
        return IntegerLinear(
            packed=matrices, num_in=several[0].shape[1], num_out=num_out, packed_bytes=num_bytes, bias_O=bias_O
        )

    def pack_embedding(self, weight: Weight) -> Embedding:
        (stored_weight,) = as_list(in_order(weight))
        if isinstance(stored_weight.unpack(0, 1), GroupedWeight):
            return self.pack_linear(stored_weight)
        return FloatEmbedding(self._keep_floats(stored_weight))

    def _keep_floats(self, weight: StoredWeight) -> torch.Tensor:
        floats = weight.unpack()
        assert isinstance(floats, torch.Tensor)
        return floats.clone()

    def tied_output(self, embedding: Embedding) -> LinearWeight:
        return self.pack_linear(embedding.table_VD) if isinstance(embedding, FloatEmbedding) else embedding

    def pack_router(
        self, weight: Weight, num_used: int, *, renormalizes: bool, shared_gate: Weight | None = None
    ) -> Router:
        rows_ED = as_matrix([weight] if shared_gate is None else [weight, shared_gate])
        return round_router(
            PackedRouter(rows_ED=rows_ED, num_experts=weight.shape[0], num_used=num_used, renormalizes=renormalizes)
        )

    def pack_experts(
        self, gate: Iterable[Weight], up: Iterable[Weight], down: Iterable[Weight], num_used: int
    ) -> Experts:
        gates, ups, downs = ([self.pack_linear(in_order(weight)) for weight in weights] for weights in (gate, up, down))
        return self._join_experts(PackedExperts(gate=gates, up=ups, down=downs, num_used=num_used))

    def _join_experts(self, experts: PackedExperts) -> PackedExperts:
        return experts

    def embed(self, embedding: Embedding, token_ids_T: torch.Tensor) -> torch.Tensor:
        if isinstance(embedding, FloatEmbedding):
            return embedding.table_VD.index_select(0, token_ids_T).float()
        assert isinstance(embedding, IntegerLinear)
        matrix = embedding.packed[0]
        assert isinstance(matrix, GroupedMatrix)
        return matrix.dequantize(token_ids_T)

    def _pack(self, weight: StoredWeight) -> GroupedMatrix | ByteMatrix:
        unpacked = weight.unpack()
        if isinstance(unpacked, GroupedWeight):
            return pack_grouped(unpacked, weight.input_order_I)
        return pack_bytes(weight.dequantize())

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, IntegerLinear)
        results = [
            multiply_grouped(x_TI, matrix) if isinstance(matrix, GroupedMatrix) else multiply_bytes(x_TI, matrix)
            for matrix in weight.packed
        ]
        y_TO = results[0] if len(results) == 1 else torch.cat(results, dim=1)
        return y_TO if weight.bias_O is None else y_TO.add_(weight.bias_O)

    def rms_norm(self, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        size = x_TD.shape[-1]
        integers_TD, scale_T1 = round_rows(x_TD, norm_levels(size))
        sum_T1 = integers_TD.double().square_().sum(dim=-1, keepdim=True)
        mean_T1 = sum_T1.mul_(scale_T1).mul_(scale_T1).mul_(1 / size)
        rms_T1 = sqrt_(mean_T1.add_(eps)).float()
        return torch.div(x_TD, rms_T1, out=integers_TD).mul_(weight_D)

    def add(self, x_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor:
        return x_TD + y_TD

    def scale(self, x_TD: torch.Tensor, factor: float) -> torch.Tensor:
        return x_TD * constant(factor)

    def cap(self, x_TD: torch.Tensor, cap: float) -> torch.Tensor:
        return tanh_(x_TD * constant(1 / cap)).mul_(constant(cap))

    def silu_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        gate_TI, up_TI = gate_up_TI.view(len(gate_up_TI), 2, -1).unbind(1)
        divisor_TI = exp2_(gate_TI * constant(-LOG2_E)).add_(constant(1.0))
        return torch.div(gate_TI, divisor_TI, out=divisor_TI).mul_(up_TI)

    def gelu_tanh_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        gate_TI, up_TI = gate_up_TI.view(len(gate_up_TI), 2, -1).unbind(1)
        factor = -2 * LOG2_E * GELU_INNER
        exponent_TI = (gate_TI * gate_TI).mul_(constant(factor * GELU_CUBE)).add_(constant(factor)).mul_(gate_TI)
        divisor_TI = exp2_(exponent_TI).add_(constant(1.0))
        return torch.div(gate_TI, divisor_TI, out=divisor_TI).mul_(up_TI)

    def route(self, x_TD: torch.Tensor, router: Router) -> torch.Tensor:
        assert isinstance(router, PackedRouter)
        return exact_routing(exact_scores(x_TD, router), router)

    def experts(
        self, x_TD: torch.Tensor, routing_TE: torch.Tensor, experts: Experts, shared_TD: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert isinstance(experts, PackedExperts)
        return experts_by_linears(self, x_TD, routing_TE, experts, shared_TD)

    def rope(self, x_TNH: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
        size = cos_TH.shape[-1]
        first_TNH, rest_TNH = x_TNH[..., :size], x_TNH[..., size:]
        swapped_TNH = first_TNH.roll(size // 2, dims=-1)
        rotated_TNH = (first_TNH * cos_TH[:, None]).add_(swapped_TNH.mul_(sin_TH[:, None]))
        return torch.cat((rotated_TNH, rest_TNH), dim=-1) if rest_TNH.shape[-1] else rotated_TNH

    def allocate_kv(self, num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> LayerKV:
        return IntegerKV.allocate(self._kv_format, num_pages, page_size, num_kv_heads, head_size)

    def kv_bytes_per_page(self, page_size: int, num_kv_heads: int, head_size: int) -> int:
        return page_size * num_kv_heads * self._kv_format.bytes_per_token(head_size)

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        assert isinstance(kv, IntegerKV)
        kv.write(k_TNH, v_TNH, self._planner.slot_rows(batch, kv.page_size, kv.num_kv_heads))

    def attention(
        self,
        q_TNH: torch.Tensor,
        kv: LayerKV,
        batch: StepBatch,
        scale: float,
        window: int | None = None,
        logit_cap: float | None = None,
    ) -> torch.Tensor:
        assert isinstance(kv, IntegerKV)
        out_TNH = torch.empty(q_TNH.shape)
        for group in self._planner.groups(batch, kv.page_size, kv.num_kv_heads, window):
            queries_XNH = q_TNH.index_select(0, group.query_rows)
            attended_XNH = self._attention.attend(queries_XNH, kv, group, scale, logit_cap)
            out_TNH.index_copy_(0, group.query_rows, attended_XNH)
        return out_TNH

    def gather_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        return x_TD.index_select(0, rows_R)
