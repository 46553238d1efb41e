"""The weight of a linear as its file stores it, and the interface to the formats of such weights.

Reading a checkpoint unpacks nothing. Kernels take a stored weight and convert it into the form that they compute with, some rows
at a time, so that no copy of a whole matrix exists in a larger type.

Legend: O, I outputs and inputs of a linear.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch

from worker.weights.grouped import AnyWeight, GroupedWeight, as_float32


class LinearFormat(Protocol):
    """A way to store the weight of a linear: one of GGML's types, or a format of quantized checkpoints."""

    @property
    def name(self) -> str:
        """Name for logs and errors, such as "Q4_K"."""

    def unpack(self, weight: "StoredWeight", first: int, end: int) -> AnyWeight:
        """Return rows `first` to `end` of the weight, in its order: integers with their scales, or floats of any type."""


def _forget_nothing(first: int, end: int) -> None:
    """Do nothing: the memory is the weight's own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredWeight:
    """The weight of a linear in the bytes of its file, with the format that can unpack them."""

    format: LinearFormat
    shape: tuple[int, int]
    """Numbers of outputs and inputs."""
    parts: Mapping[str, torch.Tensor]
    """The file's tensors that make up the weight, by the format's names for them. They may be views of the mapped file."""
    row_order_O: torch.Tensor | None = None
    """The row in the file of each row of the weight; None if the orders are equal."""
    input_order_I: torch.Tensor | None = None
    """The input of each column that `unpack` returns; None if they are in order. The kernel gathers the inputs in this order.

    GPTQ may put inputs that are far from each other into one group ("act-order").
    """

    forget: Callable[[int, int], object] = _forget_nothing
    """Release the memory of the file's rows `first` to `end`, which were packed. A large matrix is packed in several passes."""

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def unpack(self, first: int = 0, end: int | None = None) -> AnyWeight:
        """Return rows `first` to `end`, by default all: integers with their scales, or floats of any type.

        Columns are in the order `input_order_I`.
        """
        return self.format.unpack(self, first, self.shape[0] if end is None else end)

    def dequantize(self, first: int = 0, end: int | None = None) -> torch.Tensor:
        """Return rows `first` to `end` as float32, with columns in the order of the inputs."""
        values = as_float32(self.unpack(first, end))
        return values if self.input_order_I is None else values[:, torch.argsort(self.input_order_I)]

    def rows(self, first: int, end: int) -> Self:
        """Return rows of a weight whose parts have one row for each of its own, such as a stack of several matrices."""
        order = None if self.row_order_O is None else self.row_order_O[first:end]
        if order is not None:
            return replace(self, shape=(end - first, self.shape[1]), row_order_O=order, forget=_forget_nothing)
        parts = {name: part[first:end] for name, part in self.parts.items()}
        return replace(self, shape=(end - first, self.shape[1]), parts=parts, forget=_forget_nothing)

    def file_rows(self, first: int, end: int) -> slice | torch.Tensor:
        """Return an index that selects the file's rows of rows `first` to `end`."""
        return slice(first, end) if self.row_order_O is None else self.row_order_O[first:end]


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """Floats, one per weight, in the part "floats" [O, I]."""

    dtype: torch.dtype

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def unpack(self, weight: StoredWeight, first: int, end: int) -> torch.Tensor:
        return weight.parts["floats"][weight.file_rows(first, end)]


@dataclass(frozen=True, slots=True)
class UnpackedFormat:
    """The fields of GroupedWeight as parts: "integers" [O, I], "scale" [O, G] and, if there are minima, "minimum" [O, G]."""

    name = "unpacked"

    def unpack(self, weight: StoredWeight, first: int, end: int) -> GroupedWeight:
        rows, minimum = weight.file_rows(first, end), weight.parts.get("minimum")
        return GroupedWeight(
            integers_OI=weight.parts["integers"][rows],
            scale_OG=weight.parts["scale"][rows],
            minimum_OG=None if minimum is None else minimum[rows],
        )


Weight = AnyWeight | StoredWeight
"""The weight of a linear, [out, in]: floats, integers with scales, or as a file stores it."""


def stored(weight: AnyWeight) -> StoredWeight:
    """Return a weight in memory, [O, I], as a stored weight that shares its tensors."""
    num_out, num_in = weight.shape
    if isinstance(weight, torch.Tensor):
        return StoredWeight(format=FloatFormat(weight.dtype), shape=(num_out, num_in), parts={"floats": weight})
    parts = {"integers": weight.integers_OI, "scale": weight.scale_OG}
    if weight.minimum_OG is not None:
        parts["minimum"] = weight.minimum_OG
    return StoredWeight(format=UnpackedFormat(), shape=(num_out, num_in), parts=parts)


def as_list(weights: Weight | Sequence[Weight]) -> list[StoredWeight]:
    """Return one weight, or several, as stored weights."""
    several = [weights] if isinstance(weights, Weight) else weights
    return [weight if isinstance(weight, StoredWeight) else stored(weight) for weight in several]


def in_order(weight: Weight) -> Weight:
    """Return the weight, or if its inputs are not in order, the same values as floats whose inputs are."""
    is_in_order = not isinstance(weight, StoredWeight) or weight.input_order_I is None
    return weight if is_in_order else as_matrix(weight)


def as_matrix(weights: Weight | Sequence[Weight]) -> torch.Tensor:
    """Return the rows of one weight, or of several, as float32 [O, I]."""
    rows = [weight.dequantize() for weight in as_list(weights)]
    return rows[0] if len(rows) == 1 else torch.cat(rows)
