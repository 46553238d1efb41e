"""The experts of a layer in the form that source/experts.c reads, and the memory that it needs for each token."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from worker.kernels.hadamard_int8 import IntegerLinear
from worker.kernels.interface import LinearWeight
from worker.kernels.mixture import PackedExperts
from worker.kernels.native.panels import Panels


class MixedFormatsError(ValueError):
    """The experts of one layer have weights whose inputs would be rounded in different ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertMatrices:
    """One of the three matrices of each expert."""

    table_E2: torch.Tensor
    """int64: addresses of an expert's format and of its panels (`struct expert_matrix`)."""
    num_out: int
    row_bytes: int
    """Bytes of a rounded input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTables:
    gate: ExpertMatrices
    up: ExpertMatrices
    down: ExpertMatrices
    rounds_alike: bool
    """True if gate and up round their input alike, so that it is rounded once."""


def join_experts(library: ctypes.CDLL, experts: PackedExperts) -> PackedExperts:
    """Return the experts with the tables of their panels."""
    gate, up, down = (_table(library, linears) for linears in (experts.gate, experts.up, experts.down))
    rounds_alike = bool(library.round_alike(_format(gate), _format(up)))
    return replace(experts, tables=ExpertTables(gate=gate, up=up, down=down, rounds_alike=rounds_alike))


def _table(library: ctypes.CDLL, linears: Sequence[LinearWeight]) -> ExpertMatrices:
    packed = [_panels(linear) for linear in linears]
    rows = [(each.segments[0].format, each.segments[0].panels) for each in packed]
    if not all(library.round_alike(rows[0][0], each) for each, _ in rows):
        raise MixedFormatsError("the experts of a layer are stored in different formats; they must all have one")
    first, table_E2 = packed[0], torch.tensor(rows, dtype=torch.int64)
    return ExpertMatrices(table_E2=table_E2, num_out=first.segments[0].num_out, row_bytes=first.scratch_bytes)


def _panels(linear: LinearWeight) -> Panels:
    assert isinstance(linear, IntegerLinear)
    (panels,) = linear.packed
    assert isinstance(panels, Panels) and len(panels.segments) == 1
    return panels


def _format(matrices: ExpertMatrices) -> int:
    return int(matrices.table_E2[0, 0])
