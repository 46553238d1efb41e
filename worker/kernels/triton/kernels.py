"""The kernels for GPUs: attention and KV writes are Triton kernels, the rest is plain torch on the device.

Elementwise functions and rms_norm are inherited from the reference implementation. Weights, KV memory and the factors of
products have one format, bfloat16 by default; activations between products and all sums are float32. The vendor's library
multiplies matrices and chooses the order of its sums by shape, so bits depend on the batch.

For tests, the same kernels run on the CPU in Triton's interpreter (TRITON_INTERPRET=1), which is slow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch.nn import functional as F

from worker.kernels.interface import Embedding, LayerKV, LinearWeight
from worker.kernels.reference import ReferenceKernels
from worker.kernels.step_batch import StepBatch
from worker.kernels.triton.kv_pages import as_rows, kv_shape, write_kv
from worker.kernels.triton.launch_plan import LaunchPlanner
from worker.kernels.triton.online_softmax import HeadShape, ScoreRule
from worker.kernels.triton.paged_decode import paged_decode
from worker.kernels.triton.paged_prefill import paged_prefill, tile_tokens
from worker.weights.linear_format import Weight, as_matrix

FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
VERSION = 1
"""Version of the bits; increase it when a kernel's bits change."""


@dataclass(frozen=True, slots=True)
class DeviceLinear:
    weight_OI: torch.Tensor
    bias_O: torch.Tensor | None

    @property
    def num_bytes(self) -> int:
        return self.weight_OI.nbytes + (0 if self.bias_O is None else self.bias_O.nbytes)


class TritonKernels(ReferenceKernels):
    def __init__(self, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.device = device
        self.numerics_id = f"triton-{FORMATS[dtype]}-kv-{FORMATS[dtype]}-{VERSION}"
        self._dtype = dtype
        self._launches = LaunchPlanner()

    def pack_linear(self, weights: Weight | Sequence[Weight], bias_O: torch.Tensor | None = None) -> LinearWeight:
        return DeviceLinear(self._place(as_matrix(weights)), None if bias_O is None else self._place(bias_O))

    def embed(self, embedding: Embedding, token_ids_T: torch.Tensor) -> torch.Tensor:
        assert isinstance(embedding, DeviceLinear)
        return embedding.weight_OI[token_ids_T].float()

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, DeviceLinear)
        return F.linear(x_TI.to(self._dtype), weight.weight_OI, weight.bias_O).float()

    def allocate_kv(self, num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> LayerKV:
        shape = kv_shape(num_pages, page_size, num_kv_heads, head_size)
        return torch.zeros(shape, dtype=self._dtype, device=self.device)

    def kv_bytes_per_page(self, page_size: int, num_kv_heads: int, head_size: int) -> int:
        return prod(kv_shape(1, page_size, num_kv_heads, head_size)) * self._dtype.itemsize

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        assert isinstance(kv, torch.Tensor)
        write_kv(kv, k_TNH, v_TNH, batch.slots_T)

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
        num_heads, head_size = q_TNH.shape[1:]
        shape = HeadShape(
            num_heads=num_heads, num_kv_heads=kv.shape[1] // 2, head_size=head_size, page_size=kv.shape[2]
        )
        plan = self._launches.plan(batch, tile_tokens(shape))
        rule = ScoreRule(scale=scale, window=window, cap=logit_cap)
        q_TNH, out_TNH = as_rows(q_TNH), torch.empty(q_TNH.shape, device=self.device)
        if len(plan.decodes_D3):
            paged_decode(out_TNH, q_TNH, kv, batch.block_tables_SB, plan, shape, rule)
        if len(plan.tiles_W4):
            paged_prefill(out_TNH, q_TNH, kv, batch.block_tables_SB, plan, shape, rule)
        return out_TNH

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, self._dtype)
