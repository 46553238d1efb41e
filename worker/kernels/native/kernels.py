"""The integer mode in native code: the same integers and elementwise operations, so the same bits, with one call per method.

Each method has its reference implementation in the base class, or in integer_attention.py, and its kernel in source/, whose
comments say what is computed. This module passes the addresses of tensors. A launch runs immediately, or is recorded with the rest
of a step and replayed.

Legend as in step_batch.py.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch

from worker.kernels.fixed_point import LOG2_E
from worker.kernels.hadamard_int8 import IntegerLinear
from worker.kernels.integer import GELU_CUBE, GELU_INNER, FloatEmbedding, IntegerKernels, norm_levels
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS, IntegerKV, KVFormat
from worker.kernels.interface import Embedding, Experts, Forward, LayerKV, LinearWeight, Router
from worker.kernels.mixture import PackedExperts, PackedRouter, router_levels
from worker.kernels.native.attention_step import AttentionShape
from worker.kernels.native.bindings import (
    ActivationCall,
    AttentionCall,
    GatherCall,
    LinearCall,
    PointwiseCall,
    RMSNormCall,
    RopeCall,
    WriteKVCall,
)
from worker.kernels.native.experts import ExpertTables, join_experts
from worker.kernels.native.launcher import Eager, Launcher
from worker.kernels.native.mixture_calls import ExpertsCall, RouteCall
from worker.kernels.native.packing_calls import EmbedCall
from worker.kernels.native.panel_memory import PanelMemory
from worker.kernels.native.panels import FLOAT_TYPES, PanelPacker
from worker.kernels.native.recording import Recorder
from worker.kernels.native.replay import RecordedForward
from worker.kernels.step_batch import StepBatch
from worker.weights.linear_format import StoredWeight, Weight, as_list

GELU_FACTOR = -2 * LOG2_E * GELU_INNER


class NativeIntegerKernels(IntegerKernels):
    def __init__(self, library: ctypes.CDLL, kv_format: KVFormat = KV_FORMATS[DEFAULT_KV_DTYPE]) -> None:
        super().__init__(kv_format=kv_format)
        self._library = library
        self._launcher: Launcher = Eager(library)
        self._packer = PanelPacker(library)

    @property
    def library(self) -> ctypes.CDLL:
        return self._library

    @property
    def panel_memory(self) -> PanelMemory:
        return self._packer.memory

    @property
    def packing_id(self) -> str:
        """Name the form of packed weights: of the directory of the library, which stands for sources and instructions."""
        return Path(self._library._name).parent.name

    def prepare(self, forward: Forward) -> Forward:
        """Return the step as a replay, which is recorded at the first step over a given KV memory."""
        recorded: RecordedForward | None = None

        def replay(batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
            nonlocal recorded
            if recorded is None or recorded.kv is not kv:
                recorded = self._record(forward, kv)
            return recorded.run(batch)

        return replay

    def _record(self, forward: Forward, kv: Sequence[LayerKV]) -> RecordedForward:
        launcher = self._launcher
        recorder = self._launcher = Recorder(self._library)
        try:
            return RecordedForward(self._library, recorder, forward, kv)
        finally:
            self._launcher = launcher

    def pack_linear(self, weights: Weight | Sequence[Weight], bias_O: torch.Tensor | None = None) -> LinearWeight:
        several = as_list(weights)
        packed, num_out = self._packer.pack(several), sum(weight.shape[0] for weight in several)
        num_bytes = sum(panels.num_bytes for panels in packed)
        return IntegerLinear(
            packed=packed, num_in=several[0].shape[1], num_out=num_out, packed_bytes=num_bytes, bias_O=bias_O
        )

    def _join_experts(self, experts: PackedExperts) -> PackedExperts:
        return join_experts(self._library, experts)

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, IntegerLinear)
        num_tokens, num_in = x_TI.shape
        y_TO = self._launcher.new(num_tokens, weight.num_out)
        for panels in weight.packed:
            call = LinearCall(
                x=_rows(x_TI).data_ptr(),
                segments=ctypes.addressof(panels.segments),
                bias=None if weight.bias_O is None else weight.bias_O.data_ptr(),
                y=y_TO.data_ptr(),
                rows=self._launcher.scratch("rows", num_tokens, panels.scratch_bytes, torch.uint8).data_ptr(),
                input_order=None if panels.input_order_I is None else panels.input_order_I.data_ptr(),
                num_segments=len(panels.segments),
                num_in=num_in,
                num_out=weight.num_out,
            )
            self._launcher.launch("linear", call, num_tokens)
        return y_TO

    def rms_norm(self, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        size, y_TD = weight_D.shape[-1], self._launcher.new(*x_TD.shape)
        call = RMSNormCall(
            x=_heads(x_TD).data_ptr(),
            weight=weight_D.data_ptr(),
            y=y_TD.data_ptr(),
            token_stride=x_TD.stride(0),
            num_heads=weight_D.numel() // size,
            size=size,
            inverse_levels=1.0 / norm_levels(size),
            inverse_size=1.0 / size,
            eps=eps,
        )
        self._launcher.launch("rms_norm", call, len(x_TD))
        return y_TD

    def add(self, x_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor:
        return self._pointwise("add", x_TD, PointwiseCall(other=_rows(y_TD).data_ptr()))

    def scale(self, x_TD: torch.Tensor, factor: float) -> torch.Tensor:
        return self._pointwise("scale", x_TD, PointwiseCall(factor=factor))

    def cap(self, x_TD: torch.Tensor, cap: float) -> torch.Tensor:
        return self._pointwise("cap", x_TD, PointwiseCall(factor=cap, inverse_factor=1 / cap))

    def _pointwise(self, kernel: str, x_TD: torch.Tensor, call: PointwiseCall) -> torch.Tensor:
        out_TD = self._launcher.new(*x_TD.shape)
        call.x, call.y, call.size = _rows(x_TD).data_ptr(), out_TD.data_ptr(), x_TD.shape[1]
        self._launcher.launch(kernel, call, len(x_TD))
        return out_TD

    def silu_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        return self._activate("silu_mul", gate_up_TI, ActivationCall())

    def gelu_tanh_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        call = ActivationCall(square_factor=GELU_FACTOR * GELU_CUBE, factor=GELU_FACTOR)
        return self._activate("gelu_tanh_mul", gate_up_TI, call)

    def _activate(self, kernel: str, gate_up_TI: torch.Tensor, call: ActivationCall) -> torch.Tensor:
        num_tokens, size = gate_up_TI.shape[0], gate_up_TI.shape[1] // 2
        y_TI = self._launcher.new(num_tokens, size)
        call.gate_up, call.y, call.size = _rows(gate_up_TI).data_ptr(), y_TI.data_ptr(), size
        self._launcher.launch(kernel, call, num_tokens)
        return y_TI

    def route(self, x_TD: torch.Tensor, router: Router) -> torch.Tensor:
        assert isinstance(router, PackedRouter) and router.scale_E is not None
        num_rows, size = router.rows_ED.shape
        y_TE = self._launcher.new(len(x_TD), num_rows)
        call = RouteCall(
            x=_rows(x_TD).data_ptr(),
            router=router.rows_ED.data_ptr(),
            scales=router.scale_E.data_ptr(),
            y=y_TE.data_ptr(),
            rows=self._launcher.scratch("route", len(x_TD), size + 1, torch.float64).data_ptr(),
            size=size,
            num_rows=num_rows,
            num_experts=router.num_experts,
            num_used=router.num_used,
            renormalizes=router.renormalizes,
            inverse_levels=1.0 / router_levels(size),
        )
        self._launcher.launch("route", call, len(x_TD))
        return y_TE

    def experts(
        self, x_TD: torch.Tensor, routing_TE: torch.Tensor, experts: Experts, shared_TD: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert isinstance(experts, PackedExperts) and isinstance(experts.tables, ExpertTables)
        (num_tokens, size), tables, used = x_TD.shape, experts.tables, experts.num_used
        inner_size, y_TD = tables.gate.num_out, self._launcher.new(num_tokens, size)

        def scratch(place: str, row_size: int, dtype: torch.dtype) -> int:
            return self._launcher.scratch(place, num_tokens, row_size, dtype).data_ptr()

        gate_rows = scratch("expert gate rows", used * tables.gate.row_bytes, torch.uint8)
        call = ExpertsCall(
            x=_rows(x_TD).data_ptr(),
            routing=_rows(routing_TE).data_ptr(),
            shared=None if shared_TD is None else _rows(shared_TD).data_ptr(),
            y=y_TD.data_ptr(),
            gate=tables.gate.table_E2.data_ptr(),
            up=tables.up.table_E2.data_ptr(),
            down=tables.down.table_E2.data_ptr(),
            places=scratch("expert places", used, torch.int32),
            tokens=scratch("expert tokens", used, torch.int32),
            rows=scratch("rows", max(tables.gate.row_bytes, tables.up.row_bytes), torch.uint8),
            gate_rows=gate_rows,
            up_rows=gate_rows
            if tables.rounds_alike
            else scratch("expert up rows", used * tables.up.row_bytes, torch.uint8),
            down_rows=scratch("expert down rows", used * tables.down.row_bytes, torch.uint8),
            gates=scratch("expert gates", used * inner_size, torch.float32),
            ups=scratch("expert ups", used * inner_size, torch.float32),
            results=scratch("expert results", used * size, torch.float32),
            size=size,
            inner_size=inner_size,
            num_weights=routing_TE.shape[1],
            num_experts=len(tables.down.table_E2),
            num_used=used,
        )
        self._launcher.launch("experts", call, num_tokens)
        return y_TD

    def rope(self, x_TNH: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
        y_TNH = self._launcher.new(*x_TNH.shape)
        call = RopeCall(
            x=_heads(x_TNH).data_ptr(),
            cos=_rows(cos_TH).data_ptr(),
            sin=_rows(sin_TH).data_ptr(),
            y=y_TNH.data_ptr(),
            token_stride=x_TNH.stride(0),
            num_heads=x_TNH.shape[1],
            head_size=x_TNH.shape[2],
            rotated_size=cos_TH.shape[1],
        )
        self._launcher.launch("rope", call, len(x_TNH))
        return y_TNH

    def gather_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        y_RD = self._launcher.new(len(rows_R), x_TD.shape[1])
        call = GatherCall(
            x=_rows(x_TD).data_ptr(), rows=_rows(rows_R).data_ptr(), y=y_RD.data_ptr(), size=x_TD.shape[1]
        )
        self._launcher.launch("gather_rows", call, len(rows_R))
        return y_RD

    def _keep_floats(self, weight: StoredWeight) -> torch.Tensor:
        return self._packer.keep_floats(weight)

    def embed(self, embedding: Embedding, token_ids_T: torch.Tensor) -> torch.Tensor:
        if isinstance(embedding, FloatEmbedding):
            table_VD = embedding.table_VD
            call = EmbedCall(table=_rows(table_VD).data_ptr(), type=FLOAT_TYPES[table_VD.dtype], size=table_VD.shape[1])
            return self._embed("embed_floats", call, token_ids_T)
        assert isinstance(embedding, IntegerLinear)
        ((segment,),) = (panels.segments for panels in embedding.packed)
        call = EmbedCall(table=segment.panels, format=segment.format, size=embedding.num_in)
        return self._embed("embed_packed", call, token_ids_T)

    def _embed(self, kernel: str, call: EmbedCall, token_ids_T: torch.Tensor) -> torch.Tensor:
        y_TD = self._launcher.new(len(token_ids_T), call.size)
        call.rows, call.y = _rows(token_ids_T).data_ptr(), y_TD.data_ptr()
        self._launcher.launch(kernel, call, len(token_ids_T))
        return y_TD

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        assert isinstance(kv, IntegerKV)
        call = WriteKVCall(
            keys=_heads(k_TNH).data_ptr(),
            values=_heads(v_TNH).data_ptr(),
            slots=_rows(batch.slots_T).data_ptr(),
            integers=kv.integers.data_ptr(),
            scales=kv.scales.data_ptr(),
            keys_stride=k_TNH.stride(0),
            values_stride=v_TNH.stride(0),
            num_heads=kv.num_kv_heads,
            head_size=kv.head_size,
            page_size=kv.page_size,
            element_bytes=kv.integers.element_size(),
            scale_length=kv.format.scale_length or kv.head_size,
        )
        self._launcher.launch("write_kv", call, len(k_TNH))

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
        num_heads, out_TNH = q_TNH.shape[1], self._launcher.new(*q_TNH.shape)
        num_parts = kv.scales.shape[1]
        shape = AttentionShape(
            queries_per_kv_head=num_heads // kv.num_kv_heads,
            head_size=kv.head_size,
            num_parts=num_parts,
            window=window,
        )
        call = AttentionCall(
            q=_heads(q_TNH).data_ptr(),
            out=out_TNH.data_ptr(),
            kv=kv.integers.data_ptr(),
            kv_scales=kv.scales.data_ptr(),
            step=ctypes.addressof(self._launcher.attention_step(batch, shape)),
            q_stride=q_TNH.stride(0),
            num_heads=num_heads,
            num_kv_heads=kv.num_kv_heads,
            head_size=kv.head_size,
            page_size=kv.page_size,
            element_bytes=kv.integers.element_size(),
            num_parts=num_parts,
            window=window or 0,
            score_factor=scale * LOG2_E if logit_cap is None else scale / logit_cap,
            cap_factor=0.0 if logit_cap is None else logit_cap * LOG2_E,
        )
        self._launcher.launch("attention", call, len(q_TNH))
        return out_TNH


def _rows(x_TX: torch.Tensor) -> torch.Tensor:
    """Return the tensor, whose rows must be contiguous: a replay could not repeat a copy."""
    assert x_TX.is_contiguous(), "rows must be contiguous: rule 3 of interface.py"
    return x_TX


def _heads(x_TX: torch.Tensor) -> torch.Tensor:
    """Return the tensor. There may be gaps between tokens, but each token's elements must be contiguous."""
    assert x_TX[:1].is_contiguous(), "a token's elements must be contiguous: rule 3 of interface.py"
    return x_TX
