"""The default mode: bits that depend on the sequence alone, never on the batch, the chunking, the padding or the library.

Each sum is over integers small enough to be exact in its accumulator, so no order of summation can change it; everything
else is an elementwise IEEE operation. Where a number is rounded to an integer the scale comes from its own row: a token,
or a token's head. Other implementations that keep to the same integers and the same elementwise operations give the same bits,
and then share this `numerics_id`. Attention is in integer_attention.py.

Budgets, in bits, for a sum over n terms:
  linear     activations 8192 levels as high * 128 + low, each in [-64, 64]; weights 127 levels per output channel.
             7 + 7 + log2 n <= 31, see exact_matmul.py.
  rms_norm   levels 2^b with 2 b + log2 n <= 52, in float64.

Legend as in batch.py; I, O inner and outer dimension of a linear.
"""

from dataclasses import dataclass
from typing import Any

import torch

from worker.batch import StepBatch
from worker.kernels.attention_plan import AttentionPlanner
from worker.kernels.exact_matmul import MAX_INNER, MAX_WEIGHT, ExactMatmul, select_exact_matmul
from worker.kernels.fixed_point import LOG2_E, constant, exp2_, round_rows, sqrt_, tanh_
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS, IntegerAttention, IntegerKV, KVFormat
from worker.kernels.interface import Forward, LayerKV, LinearWeight
from worker.kernels.scratch import Scratch

ACTIVATION_LEVELS = 8192
LOW_PART = 128
WEIGHTS_PER_PASS = 1 << 18
"""What is rounded at once when a model is loaded: little enough to stay in a core's cache from one operation to the next."""
GELU_INNER, GELU_CUBE = 0.7978845608028654, 0.044715
"""gelu(x) ~ x * (1 + tanh(u)) / 2 = x / (1 + e^-2u) with u = INNER * (x + CUBE * x^3)."""


def norm_levels(size: int) -> int:
    """To which a row of this size is rounded before it is squared and summed."""
    return 1 << min(22, (52 - (size - 1).bit_length()) // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLinear:
    packed: Any
    scale_O: torch.Tensor
    bias_O: torch.Tensor | None
    num_weights: int

    @property
    def num_bytes(self) -> int:
        return self.num_weights + self.scale_O.nbytes + (0 if self.bias_O is None else self.bias_O.nbytes)


class IntegerKernels:
    is_batch_invariant = True
    device = torch.device("cpu")

    def __init__(self, matmul: ExactMatmul | None = None, kv_format: KVFormat = KV_FORMATS[DEFAULT_KV_DTYPE]) -> None:
        self.numerics_id = f"integer-w8a14-{kv_format.name}-2"
        self._kv_format = kv_format
        self._matmul = matmul or select_exact_matmul()
        self._scratch = Scratch()
        self._planner = AttentionPlanner()
        self._attention = IntegerAttention(self._scratch)

    def prepare(self, forward: Forward) -> Forward:
        return forward

    def pack_linear(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> LinearWeight:
        if weight_OI.shape[1] > MAX_INNER:
            raise ValueError(f"a linear over {weight_OI.shape[1]} inputs: int32 sums hold {MAX_INNER}")
        integers_OI = torch.empty(weight_OI.shape, dtype=torch.int8)
        scale_O1 = torch.empty(weight_OI.shape[0], 1)
        rows_per_pass = max(1, WEIGHTS_PER_PASS // weight_OI.shape[1])
        for first in range(0, len(weight_OI), rows_per_pass):
            some = slice(first, first + rows_per_pass)
            rounded, scale_O1[some] = round_rows(weight_OI[some], MAX_WEIGHT)
            integers_OI[some] = rounded
        return IntegerLinear(
            packed=self._pack(integers_OI),
            scale_O=scale_O1[:, 0],
            bias_O=bias_O,
            num_weights=weight_OI.numel(),
        )

    def _pack(self, integers_OI: torch.Tensor) -> Any:
        return self._matmul.pack(integers_OI)

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, IntegerLinear)
        num_tokens, num_in = x_TI.shape
        if num_tokens == 0:
            return torch.empty(0, weight.scale_O.shape[0])
        parts = self._scratch.take(f"linear {num_in}", (2, num_tokens, num_in), torch.float32)
        high_TI, low_TI = parts.unbind()
        _, scale_T1 = round_rows(x_TI, ACTIVATION_LEVELS, out=low_TI)
        torch.mul(low_TI, constant(1 / LOW_PART), out=high_TI).round_()
        low_TI.sub_(high_TI, alpha=LOW_PART)
        sums_XO = self._matmul.multiply(parts.view(-1, num_in), weight.packed)
        high_TO, low_TO = sums_XO.view(2, num_tokens, -1).unbind()
        # The product with a power of two is exact, so this is one rounding, fused or not.
        y_TO = torch.add(low_TO, high_TO, alpha=LOW_PART)
        y_TO.mul_(scale_T1).mul_(weight.scale_O)
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
