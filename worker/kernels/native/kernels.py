"""The integer mode in native code: the same integers and the same elementwise operations, so the same bits, in one call each.

Every method has its twin in the class above it, or in integer_attention.py, and its kernel in source/, where it is said what
is computed. Here tensors become addresses. Results are fresh tensors; scratch memory is kept.

Legend as in batch.py.
"""

import ctypes
from dataclasses import dataclass

import torch

from worker.batch import StepBatch
from worker.kernels.fixed_point import LOG2_E
from worker.kernels.integer import GELU_CUBE, GELU_INNER, IntegerKernels, IntegerLinear, norm_levels
from worker.kernels.integer_attention import MAX_CONTEXT, IntegerKV
from worker.kernels.interface import LayerKV, LinearWeight
from worker.kernels.native.attention_items import ItemPlanner
from worker.kernels.native.library import AttentionCall
from worker.kernels.scratch import Scratch

GELU_FACTOR = -2 * LOG2_E * GELU_INNER


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """An int8 matrix in the order in which source/linear.c reads it."""

    weights: torch.Tensor
    num_out: int
    scratch_per_token: int


class NativeIntegerKernels(IntegerKernels):
    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__()
        self._library = library
        self._native_scratch = Scratch()
        self._items = ItemPlanner()

    def _pack(self, integers_OI: torch.Tensor) -> Panels:
        num_out, num_in = integers_OI.shape
        width, padded_in = self._library.panel_width(), num_in + num_in % 2
        weights = torch.empty(-(-num_out // width) * width * padded_in, dtype=torch.int8)
        self._library.pack_panels(integers_OI.data_ptr(), weights.data_ptr(), num_out, num_in)
        scratch_per_token = self._library.linear_parts(num_in) * padded_in
        return Panels(weights=weights, num_out=num_out, scratch_per_token=scratch_per_token)

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, IntegerLinear)
        panels: Panels = weight.packed
        num_tokens, num_in = x_TI.shape
        x_TI, y_TO = x_TI.contiguous(), torch.empty(num_tokens, panels.num_out)
        bias_O = None if weight.bias_O is None else weight.bias_O.contiguous()
        integers = self._native_scratch.take("integers", (num_tokens * panels.scratch_per_token,), torch.int16)
        scales = self._native_scratch.take("scales", (num_tokens,), torch.float32)
        self._library.linear(
            x_TI.data_ptr(),
            panels.weights.data_ptr(),
            weight.scale_O.data_ptr(),
            None if bias_O is None else bias_O.data_ptr(),
            y_TO.data_ptr(),
            integers.data_ptr(),
            scales.data_ptr(),
            num_tokens,
            num_in,
            panels.num_out,
            torch.get_num_threads(),
        )
        return y_TO

    def rms_norm(self, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        x_TD, weight_D, y_TD = _heads_together(x_TD), weight_D.contiguous(), torch.empty(x_TD.shape)
        num_heads, size = weight_D.numel() // weight_D.shape[-1], weight_D.shape[-1]
        levels = norm_levels(size)
        self._library.rms_norm(
            x_TD.data_ptr(),
            x_TD.stride(0),
            weight_D.data_ptr(),
            y_TD.data_ptr(),
            len(x_TD),
            num_heads,
            size,
            1.0 / levels,
            1.0 / size,
            eps,
        )
        return y_TD

    def add(self, x_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor:
        x_TD, y_TD, sum_TD = x_TD.contiguous(), y_TD.contiguous(), torch.empty(x_TD.shape)
        self._library.add(x_TD.data_ptr(), y_TD.data_ptr(), sum_TD.data_ptr(), sum_TD.numel())
        return sum_TD

    def scale(self, x_TD: torch.Tensor, factor: float) -> torch.Tensor:
        x_TD, y_TD = x_TD.contiguous(), torch.empty(x_TD.shape)
        self._library.scale(x_TD.data_ptr(), y_TD.data_ptr(), y_TD.numel(), factor)
        return y_TD

    def cap(self, x_TD: torch.Tensor, cap: float) -> torch.Tensor:
        x_TD, y_TD = x_TD.contiguous(), torch.empty(x_TD.shape)
        self._library.cap(x_TD.data_ptr(), y_TD.data_ptr(), y_TD.numel(), cap, 1 / cap)
        return y_TD

    def silu_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        num_tokens, size = gate_up_TI.shape[0], gate_up_TI.shape[1] // 2
        gate_up_TI, y_TI = gate_up_TI.contiguous(), torch.empty(num_tokens, size)
        self._library.silu_mul(gate_up_TI.data_ptr(), y_TI.data_ptr(), num_tokens, size)
        return y_TI

    def gelu_tanh_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        num_tokens, size = gate_up_TI.shape[0], gate_up_TI.shape[1] // 2
        gate_up_TI, y_TI = gate_up_TI.contiguous(), torch.empty(num_tokens, size)
        pointers = gate_up_TI.data_ptr(), y_TI.data_ptr()
        self._library.gelu_tanh_mul(*pointers, num_tokens, size, GELU_FACTOR * GELU_CUBE, GELU_FACTOR)
        return y_TI

    def rope(self, x_TNH: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
        x_TNH, y_TNH = _heads_together(x_TNH), torch.empty(x_TNH.shape)
        cos_TH, sin_TH = cos_TH.contiguous(), sin_TH.contiguous()
        pointers = x_TNH.data_ptr(), x_TNH.stride(0), cos_TH.data_ptr(), sin_TH.data_ptr(), y_TNH.data_ptr()
        self._library.rope(*pointers, *x_TNH.shape, cos_TH.shape[1])
        return y_TNH

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        assert isinstance(kv, IntegerKV)
        k_TNH, v_TNH, slots_T = _heads_together(k_TNH), _heads_together(v_TNH), batch.slots_T.contiguous()
        self._library.write_kv(
            k_TNH.data_ptr(),
            k_TNH.stride(0),
            v_TNH.data_ptr(),
            v_TNH.stride(0),
            slots_T.data_ptr(),
            kv.integers.data_ptr(),
            kv.scales.data_ptr(),
            *k_TNH.shape,
            kv.page_size,
        )

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
        q_TNH, out_TNH = _heads_together(q_TNH), torch.empty(q_TNH.shape)
        plan, num_threads = self._items.items(batch, window), torch.get_num_threads()
        assert plan.max_keys <= MAX_CONTEXT, "the exact sums hold no longer context"
        num_queries = plan.max_queries * q_TNH.shape[1] // kv.num_kv_heads
        scratch_bytes = self._library.attention_scratch_bytes(num_queries, plan.max_keys, kv.head_size)
        call = AttentionCall(
            q=q_TNH.data_ptr(),
            out=out_TNH.data_ptr(),
            kv=kv.integers.data_ptr(),
            kv_scales=kv.scales.data_ptr(),
            tables=plan.tables_SB.data_ptr(),
            items=plan.items.data_ptr(),
            scratch=self._native_scratch.take("attention", (num_threads * scratch_bytes,), torch.uint8).data_ptr(),
            q_stride=q_TNH.stride(0),
            table_width=plan.tables_SB.shape[1],
            num_heads=q_TNH.shape[1],
            num_kv_heads=kv.num_kv_heads,
            head_size=kv.head_size,
            page_size=kv.page_size,
            window=window or 0,
            scratch_bytes=scratch_bytes,
            num_threads=num_threads,
            score_factor=scale * LOG2_E if logit_cap is None else scale / logit_cap,
            cap_factor=0.0 if logit_cap is None else logit_cap * LOG2_E,
        )
        self._library.attention(ctypes.byref(call), len(plan.items))
        return out_TNH


def _heads_together(x_TX: torch.Tensor) -> torch.Tensor:
    """Tokens may lie apart, each token's elements behind each other."""
    return x_TX if x_TX.is_contiguous() or x_TX[:1].is_contiguous() else x_TX.contiguous()
