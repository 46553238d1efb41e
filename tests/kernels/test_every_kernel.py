"""Tests that each function of kernels/interface.py is in all the places that docs/adding-a-kernel.md lists."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import Kernels
from worker.kernels.native.kernels import NativeIntegerKernels
from worker.kernels.native.self_check import find_difference
from worker.kernels.reference import ReferenceKernels

FUNCTIONS = {name for name, value in vars(Kernels).items() if inspect.isfunction(value) and not name.startswith("_")}
PACKING = {
    "pack_linear",
    "pack_embedding",
    "pack_router",
    "pack_experts",
    "tied_output",
    "allocate_kv",
    "kv_bytes_per_page",
}
COMPUTING = sorted(FUNCTIONS - PACKING - {"prepare"})
# With a scale of NaN the integers are arbitrary, so these two are compared in test_native_kernels.py instead.
HIDING_NAN = sorted(set(COMPUTING) - {"write_kv", "attention"})

Function = Callable[..., Any]


def with_function(name: str, wrap: Callable[[Function], Function]) -> IntegerKernels:
    """Return the integer kernels with the named function wrapped by `wrap`."""
    kernels = IntegerKernels()
    setattr(kernels, name, wrap(getattr(kernels, name)))
    return kernels


def one_bit_off(function: Function) -> Function:
    """Return the function with the last bit of each result changed; a function without a result does nothing."""

    def altered(*arguments: Any) -> torch.Tensor | None:
        result = function(*arguments) if inspect.signature(function).return_annotation is not None else None
        return result if result is None else torch.nextafter(result, torch.tensor(torch.inf))

    return altered


def nan_made_zero(function: Function) -> Function:
    def altered(*arguments: Any) -> torch.Tensor:
        result: torch.Tensor = function(*arguments)
        return torch.where(result.isnan(), 0.0, result)

    return altered


def methods_called_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {function.attr for function in calls if isinstance(function, ast.Attribute)}


@pytest.mark.parametrize("implementation", [ReferenceKernels, IntegerKernels])
def test_every_function_has_a_reference_and_an_integer_implementation(implementation: type) -> None:
    assert FUNCTIONS - vars(implementation).keys() == set()


def test_every_function_is_native() -> None:
    """Check that no function is inherited: it would compute in torch, only once, while a step is recorded (rule 5)."""
    assert FUNCTIONS - vars(NativeIntegerKernels).keys() == PACKING - {"pack_linear"}


@pytest.mark.parametrize("name", COMPUTING)
def test_the_self_check_finds_a_wrong_bit(name: str) -> None:
    assert find_difference(with_function(name, one_bit_off), IntegerKernels()) is not None


@pytest.mark.parametrize("name", HIDING_NAN)
def test_the_self_check_finds_a_nan_that_became_zero(name: str) -> None:
    """Check that each function has a case with NaN, and that its integer implementation keeps NaN (rule 6)."""
    assert find_difference(with_function(name, nan_made_zero), IntegerKernels()) is not None


@pytest.mark.parametrize("name", ["test_native_kernels.py", "test_integer_kernels.py"])
def test_every_function_has_a_test_case(name: str) -> None:
    assert set(COMPUTING) - methods_called_in(Path(__file__).with_name(name)) == set()
