"""Tests that a forward which breaks a rule of kernels/interface.py is refused, with the name of the rule."""

import ctypes
from collections.abc import Callable, Sequence

import pytest
import torch

from tests.kernels.native import native_kernels
from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import LayerKV
from worker.kernels.native import bindings
from worker.kernels.native.bindings import Call, GatherCall, PointwiseCall, UndeclaredKernelError
from worker.kernels.native.launcher import Eager, Launcher
from worker.kernels.native.recording import RECORDED_SAMPLES, RECORDED_TOKENS, RecordingError
from worker.kernels.native.self_check import find_difference
from worker.kernels.step_batch import StepBatch

KERNELS = native_kernels()
SIZE = 8
TABLE = torch.arange(100.0 * SIZE).view(100, SIZE)
ONES = torch.ones(100, 2)

RecordedStep = Callable[[Launcher, StepBatch], torch.Tensor]


def prepared(step: RecordedStep) -> torch.Tensor:
    """Record a step and replay it for seven tokens; the last and the first are sampled."""

    def forward(batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        return step(KERNELS._launcher, batch)

    num_tokens = 7
    batch = StepBatch(
        token_ids_T=torch.arange(num_tokens) * 3,
        positions_T=torch.arange(num_tokens),
        slots_T=torch.arange(num_tokens),
        query_starts=(0, num_tokens),
        context_lens=(num_tokens,),
        block_tables_SB=torch.zeros(1, 1, dtype=torch.int64),
        sample_rows_R=torch.tensor([num_tokens - 1, 0]),
    )
    return KERNELS.prepare(forward)(batch, ())


def sampled(batch: StepBatch) -> torch.Tensor:
    return KERNELS.gather_rows(KERNELS.gather_rows(TABLE, batch.token_ids_T), batch.sample_rows_R)


def test_a_step_that_keeps_to_the_rules() -> None:
    assert prepared(lambda launcher, batch: sampled(batch)).tolist() == TABLE[[18, 0]].tolist()


def test_the_self_check_launches_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: set[str] = set()
    launch = Eager.launch

    def noted(self: Eager, kernel: str, call: Call, num_rows: int) -> None:
        launched.add(kernel)
        launch(self, kernel, call, num_rows)

    monkeypatch.setattr(Eager, "launch", noted)
    assert find_difference(KERNELS, IntegerKernels()) is None
    assert launched == set(bindings.KERNELS)


def test_a_kernel_that_is_not_declared_is_refused() -> None:
    """Check that an undeclared function is refused, since it would get its number of rows in 32 bits.

    The library exports this function for another caller.
    """

    def step(launcher: Launcher, batch: StepBatch) -> torch.Tensor:
        x_RD = sampled(batch)
        launcher.launch("choose_tokens", PointwiseCall(x=x_RD.data_ptr()), RECORDED_SAMPLES)
        return x_RD

    message = "'choose_tokens' is not in KERNELS of bindings.py"
    with pytest.raises(UndeclaredKernelError, match=message):
        prepared(step)
    with pytest.raises(UndeclaredKernelError, match=message):
        KERNELS._launcher.launch("choose_tokens", PointwiseCall(), 0)


def test_a_result_with_a_row_for_something_else() -> None:
    message = r"a result or scratch memory with 4 rows cannot be replayed: .* tokens \(3 while .* sampled rows \(2\) \(rule 2\)"
    with pytest.raises(RecordingError, match=message):
        prepared(lambda launcher, batch: KERNELS.scale(TABLE[:4], 2.0))


def test_a_launch_over_something_else() -> None:
    def step(launcher: Launcher, batch: StepBatch) -> torch.Tensor:
        x_RD = sampled(batch)
        launcher.launch("scale", PointwiseCall(x=x_RD.data_ptr(), y=x_RD.data_ptr(), size=1, factor=2.0), SIZE)
        return x_RD

    with pytest.raises(RecordingError, match=r"a launch of 'scale' with 8 rows cannot be replayed"):
        prepared(step)


def test_a_launch_that_begins_at_a_later_row() -> None:
    def step(launcher: Launcher, batch: StepBatch) -> torch.Tensor:
        x_TD, y_RD = KERNELS.gather_rows(TABLE, batch.token_ids_T), launcher.new(RECORDED_SAMPLES, SIZE)
        call = PointwiseCall(x=x_TD[1:].data_ptr(), y=y_RD.data_ptr(), size=SIZE, factor=2.0)
        launcher.launch("scale", call, RECORDED_SAMPLES)
        return y_RD

    with pytest.raises(RecordingError, match=r"'scale': field 'x' begins 32 bytes .* row of 32 bytes \(rule 3\)"):
        prepared(step)


def test_an_address_that_is_declared_as_a_number() -> None:
    class HiddenAddressCall(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_int64 if name == "rows" else kind) for name, kind in GatherCall._fields_)

    def step(launcher: Launcher, batch: StepBatch) -> torch.Tensor:
        y_TD = launcher.new(RECORDED_TOKENS, SIZE)
        call = HiddenAddressCall(x=TABLE.data_ptr(), rows=batch.token_ids_T.data_ptr(), y=y_TD.data_ptr(), size=SIZE)
        launcher.launch("gather_rows", call, RECORDED_TOKENS)  # type: ignore[arg-type]
        return KERNELS.gather_rows(y_TD, batch.sample_rows_R)

    with pytest.raises(RecordingError, match=r"'gather_rows': field 'rows' holds an address .* POINTER \(rule 4\)"):
        prepared(step)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x_RD: x_RD * 2, "mul"),
        (lambda x_RD: x_RD.mul_(2), "mul_"),
        (lambda x_RD: torch.mul(x_RD, 2, out=x_RD), "mul"),
        (lambda x_RD: x_RD.T.contiguous().T, "contiguous"),
        (lambda x_RD: torch.cat((x_RD, x_RD), dim=1), "cat"),
        (lambda x_RD: torch.zeros(RECORDED_SAMPLES, SIZE), "zeros"),
    ],
    ids=["multiplied", "in-place", "into-another", "copied", "joined", "made"],
)
def test_an_operation_of_torchs_between_launches(operation: Callable[[torch.Tensor], torch.Tensor], name: str) -> None:
    with pytest.raises(RecordingError, match=rf"torch computes '{name}' between launches, .* \(rule 5\)"):
        prepared(lambda launcher, batch: KERNELS.scale(operation(sampled(batch)), 2.0))


def test_views_of_results() -> None:
    """Test views of heads and of parts of a row, as attention uses them."""

    def step(launcher: Launcher, batch: StepBatch) -> torch.Tensor:
        x_TNH = KERNELS.gather_rows(TABLE, batch.token_ids_T).view(RECORDED_TOKENS, 4, -1)
        _, other_TNH = x_TNH.tensor_split([2], dim=1)
        angles_TH = KERNELS.gather_rows(ONES, batch.positions_T)
        y_TNH = KERNELS.rope(other_TNH, angles_TH, angles_TH)
        return KERNELS.gather_rows(y_TNH.flatten(1), batch.sample_rows_R)

    with torch.inference_mode():
        logits_RV = prepared(step)
    swapped_sums = TABLE[[18, 0], 4:].view(2, 2, 2).sum(dim=2, keepdim=True).expand(2, 2, 2)
    assert torch.equal(logits_RV, swapped_sums.flatten(1))


def test_logits_of_no_launch() -> None:
    with pytest.raises(RecordingError, match=r"not the result of a launch \(rule 5\)"):
        prepared(lambda launcher, batch: torch.empty(RECORDED_SAMPLES, SIZE))


def test_logits_of_all_tokens() -> None:
    with pytest.raises(RecordingError, match=r"do not have one row for each sampled row \(rule 2\)"):
        prepared(lambda launcher, batch: KERNELS.gather_rows(TABLE, batch.token_ids_T))
