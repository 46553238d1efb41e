"""The interface of the kernels: the only functions with which a model computes. An implementation is chosen at start.

A model family calls only these functions between token ids and logits. So its code is the same on every device, and a step
is a list of kernel launches: an implementation may run them immediately (torch), or record them into buffers of its own and
replay the list in one native call, as a CUDA graph does. An implementation therefore owns the memory of its results. A
result is valid until the same function is called for the same place in the next step.

`numerics_id` names the bits: two implementations with the same id give the same bits for the same sequence. Each
implementation says whether its results depend on what else is in the batch (`is_batch_invariant`).

Follow these rules when you add a function here, or a kernel behind one. `prepare` may run a model's forward once, for a few
tokens, and replay its launches for every later step. native/recording.py refuses a launch if it detects that one of rules
1 to 5 is broken.

1. A forward launches the same kernels in the same order in each step. It does not branch on values or on numbers of tokens.
2. A result, or scratch memory, has one row for each token of the step (T) or one for each sampled row (R). The number of
   rows is the only size of a step that a launch receives: sizes, strides and factors in its structure are the same in each
   step. What differs between sequences comes from the batch, as it does for attention (native/attention_step.py).
3. Rows are contiguous. A launch begins in the first row: at its start, or at the keys in a row of queries and keys.
4. An address in a structure is a field of type POINTER. It is the address of an input, a result or scratch memory, which a
   replay rewrites, or of memory that lives as long as the model: weights, tables, keys and values. It is never the address of
   a temporary tensor.
5. Between token ids and logits only these functions compute, and tensors are viewed, not copied. A torch operation would
   run only once, while recording.
6. NaN stays NaN: a result computed from NaN is NaN, so that it reaches the logits, where the sampler raises an error. A
   kernel that turns NaN into a number, as `x > 0 ? x : 0` does, would hide a broken model.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch

from worker.kernels.step_batch import StepBatch
from worker.weights.linear_format import Weight


class LinearWeight(Protocol):
    """A weight in an implementation's own form, opaque to other code."""

    @property
    def num_bytes(self) -> int: ...


class Embedding(Protocol):
    """An embedding table in an implementation's own form, opaque to other code."""

    @property
    def num_bytes(self) -> int: ...


class Router(Protocol):
    """The router of a mixture of experts in an implementation's own form, opaque to other code."""

    @property
    def num_bytes(self) -> int: ...


class Experts(Protocol):
    """The experts of one layer in an implementation's own form, opaque to other code."""

    @property
    def num_bytes(self) -> int: ...


class LayerKV(Protocol):
    """One layer's keys and values, addressed by slot, in an implementation's own form, opaque to other code."""


Forward = Callable[[StepBatch, Sequence[LayerKV]], torch.Tensor]
"""A model's step: it writes keys and values into one LayerKV per layer and returns float32 logits [R, V] of the sampled rows."""


class Kernels(Protocol):
    numerics_id: str
    is_batch_invariant: bool
    device: torch.device
    """Device of all inputs, results, packed weights and KV memory."""

    def prepare(self, forward: Forward) -> Forward:
        """Return the same step, in the form that this implementation runs fastest when it is repeated.

        The next step may overwrite its logits.
        """

    def pack_linear(self, weights: Weight | Sequence[Weight], bias_O: torch.Tensor | None = None) -> LinearWeight:
        """Convert an [out, in] weight, as it is in its file, into the form that `linear` reads.

        Several weights that read the same input become one linear, whose outputs are theirs, side by side.
        """

    def pack_embedding(self, weight: Weight) -> Embedding:
        """Convert an embedding table [vocabulary, hidden size] into the form that `embed` reads."""

    def tied_output(self, embedding: Embedding) -> LinearWeight:
        """Return the linear whose weight is the embedding table."""

    def pack_router(
        self, weight: Weight, num_used: int, *, renormalizes: bool, shared_gate: Weight | None = None
    ) -> Router:
        """Convert a router's weight [experts, hidden size] into the form that `route` reads.

        The weights of the `num_used` experts that compute for a token sum to one if `renormalizes`. `shared_gate` is the
        weight [1, hidden size] of the gate of an expert that computes for all tokens.
        """

    def pack_experts(
        self, gate: Iterable[Weight], up: Iterable[Weight], down: Iterable[Weight], num_used: int
    ) -> Experts:
        """Convert the weights of each expert, as they are in their file, into the form that `experts` reads."""

    def embed(self, embedding: Embedding, token_ids_T: torch.Tensor) -> torch.Tensor:
        """Return the tokens' rows of the table, as float32 [T, D]."""

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        """Return x W^T + b, as float32 [T, out]."""

    def rms_norm(self, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        """Return x / sqrt(mean(x^2) + eps) * weight, with the mean over the last dimension.

        The norm is of tokens, or of heads if x is [T, N, H] and the weight [N, H].
        """

    def add(self, x_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor: ...

    def scale(self, x_TD: torch.Tensor, factor: float) -> torch.Tensor:
        """Return x * factor, with the factor rounded to float32."""

    def cap(self, x_TD: torch.Tensor, cap: float) -> torch.Tensor:
        """Return cap * tanh(x / cap), which is nearly x where x is small and never exceeds the cap."""

    def silu_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        """Return gate * sigmoid(gate) * up, [T, I], of gate and up side by side in [T, 2 I]."""

    def gelu_tanh_mul(self, gate_up_TI: torch.Tensor) -> torch.Tensor:
        """Return gelu(gate) * up, [T, I], of gate and up side by side in [T, 2 I], with the tanh approximation of gelu."""

    def route(self, x_TD: torch.Tensor, router: Router) -> torch.Tensor:
        """Return the weight of each expert for each token, as float32 [T, E], which is zero for experts that do not compute.

        The weights are the softmax of the scores x W^T, of which the largest are kept; of equal ones the first. If the router
        gates a shared expert, column E holds sigmoid(x g).
        """

    def experts(
        self, x_TD: torch.Tensor, routing_TE: torch.Tensor, experts: Experts, shared_TD: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the sum over experts of weight * down(silu_mul(gate, up)), [T, D], of `route`'s weights for the same x.

        If `shared_TD` is given, it is added with the weight in column E. Sums are in the order: shared, then the experts.
        """

    def rope(self, x_TNH: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
        """Rotate pairs (i, i + H/2) of each head: x * cos + swap_halves(x) * sin.

        cos [T, H] holds each angle twice; so does sin, with the sign of the rotation: [-sin, sin]. If they are narrower than a
        head, they rotate its first elements and leave the others unchanged.
        """

    def allocate_kv(self, num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> LayerKV:
        """Allocate the KV memory of one layer."""

    def kv_bytes_per_page(self, page_size: int, num_kv_heads: int, head_size: int) -> int:
        """Return the size of one page of one layer, in bytes."""

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        """Write the step's keys and values into the slots `batch.slots_T`."""

    def attention(
        self,
        q_TNH: torch.Tensor,
        kv: LayerKV,
        batch: StepBatch,
        scale: float,
        window: int | None = None,
        logit_cap: float | None = None,
    ) -> torch.Tensor:
        """Return the causal attention of each query over its sequence's pages, as float32 [T, N, H].

        A query sees the last `window` keys, including its own token's, or all keys if `window` is None. Scores are multiplied
        by `scale`, then capped as by `cap`. The batch's own keys and values are already written.
        """

    def gather_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        """Return the rows `rows_R` of x: of a rope table, or of the hidden states that are sampled."""
