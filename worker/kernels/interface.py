"""The one interface through which a model touches tensors. An implementation is chosen once, at start.

A model family calls nothing but these functions between token ids and logits. That keeps a family's code the same on every
device, and it makes a step a list of kernel launches: an implementation may run them at once (torch), or record them
into buffers of its own and replay the list in one native call, as a CUDA graph does. So an implementation owns the memory
of what it returns; a result is valid until the same function has been called for the same place in the next step.

`numerics_id` names the bits: two implementations with the same id give the same bits for the same sequence. Each
implementation says whether its results depend on who else is in the batch (`is_batch_invariant`).

Rules for adding a function here, or a kernel behind one. `prepare` may run a model's forward once, for a few tokens, and
replay its launches for every further step. native/recording.py refuses a launch that is seen to break one of rules 1 to 5.

1. A forward launches the same kernels in the same order in each step. It does not branch on values or on numbers of tokens.
2. A result, or scratch memory, has one row for each token of the step (T) or one for each sampled row (R). The number of
   rows is all that a launch is told of a step's size: sizes, strides and factors in its structure are the same in each
   step. What differs between sequences comes from the batch, as it does for attention (native/attention_step.py).
3. Rows lie behind each other. A launch begins in the first row: at its start, or at the keys in a row of queries and keys.
4. An address in a structure is a field of type POINTER. It is that of an input, a result or scratch memory, which a
   replay rewrites, or of memory that lives as long as the model: weights, tables, keys and values. It is never that of a
   temporary tensor.
5. Between token ids and logits only these functions compute, and tensors are viewed, not copied. An operation of torch's
   would run once, while recording.
6. NaN stays NaN: what is computed from a NaN is NaN, so that it reaches the logits, where the sampler raises an error. A
   kernel that makes a number of it, as `x > 0 ? x : 0` does, would let a broken model answer.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from worker.kernels.step_batch import StepBatch
from worker.weights.four_bit import AnyWeight


class LinearWeight(Protocol):
    """A weight in the form in which an implementation computes with it; opaque to everyone else."""

    @property
    def num_bytes(self) -> int: ...


class LayerKV(Protocol):
    """One layer's keys and values, addressed by slot; opaque to everyone else."""


Forward = Callable[[StepBatch, Sequence[LayerKV]], torch.Tensor]
"""A model's step: keys and values go into one LayerKV per layer, float32 logits [R, V] of the sampled rows come back."""


class Kernels(Protocol):
    numerics_id: str
    is_batch_invariant: bool
    device: torch.device
    """Where all tensors are that it takes and returns; packed weights and KV memory too."""

    def prepare(self, forward: Forward) -> Forward:
        """The same step, in the fastest way in which this implementation can run it again and again.

        Its logits may be overwritten by the next step.
        """

    def pack_linear(self, weight: AnyWeight, bias_O: torch.Tensor | None = None) -> LinearWeight:
        """Bring an [out, in] weight, float32 or as its file has it, into the form that `linear` reads."""

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        """x W^T + b, as float32 [T, out]."""

    def rms_norm(self, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last dimension: of tokens, or with [T, N, H] and [N, H] of heads."""

    def add(self, x_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor: ...

    def scale(self, x_TD: torch.Tensor, factor: float) -> torch.Tensor:
        """x * factor, the factor rounded to float32."""

    def cap(self, x_TD: torch.Tensor, cap: float) -> torch.Tensor:
        """cap * tanh(x / cap): nearly x where it is small, never beyond the cap."""

    def silu_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        """gate * sigmoid(gate) * up, where the two lie side by side: [T, 2 I] to [T, I]."""

    def gelu_tanh_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        """gelu(gate) * up likewise, gelu in its approximation by tanh."""

    def rope(self, x_TNH: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
        """Rotate pairs (i, i + H/2) of each head: x * cos + swap_halves(x) * sin.

        cos [T, H] holds each angle twice; sin too, with the sign of the rotation: [-sin, sin]. Where they are narrower
        than a head, they rotate its first elements and the others stay as they are.
        """

    def allocate_kv(self, num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> LayerKV:
        """Memory for one layer."""

    def kv_bytes_per_page(self, page_size: int, num_kv_heads: int, head_size: int) -> int:
        """What one page of one layer takes."""

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        """Put the step's keys and values where `batch.slots_T` says."""

    def attention(
        self,
        q_TNH: torch.Tensor,
        kv: LayerKV,
        batch: StepBatch,
        scale: float,
        window: int | None = None,
        logit_cap: float | None = None,
    ) -> torch.Tensor:
        """Causal attention of each query over its sequence's pages, as float32 [T, N, H].

        A query sees the last `window` keys, its own token's included; None: all. Scores are multiplied by `scale`, then
        capped as `cap` does. The batch's own keys and values are already written.
        """

    def gather_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        """The rows named: of an embedding or rope table, or of hidden states that are sampled."""
