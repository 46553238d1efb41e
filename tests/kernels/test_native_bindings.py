"""Tests that a structure which differs between Python and the native code is refused, with its name."""

import ctypes
import inspect
import re
from ctypes import c_float, c_int32, c_int64
from pathlib import Path

import pytest

from tests.kernels.native import native_library
from worker.kernels.integer import IntegerKernels
from worker.kernels.native import bindings, load
from worker.kernels.native.bindings import POINTER
from worker.kernels.native.build import SOURCE_DIRECTORY
from worker.kernels.native.layout_check import LayoutError

native_library()  # Without a compiler this skips the module.

GATHER = dict(bindings.GatherCall._fields_)


def drifted(*fields: tuple[str, type]) -> type[ctypes.Structure]:
    return type("GatherCall", (ctypes.Structure,), {"_fields_": fields})


SWAPPED = drifted(("rows", POINTER), ("x", POINTER), ("y", POINTER), ("size", c_int64))
NARROWER = drifted(("x", POINTER), ("rows", POINTER), ("y", POINTER), ("size", c_int32))
WITHOUT = drifted(("x", POINTER), ("rows", POINTER), ("y", POINTER))
WITH_ANOTHER = drifted(*GATHER.items(), ("factor", c_float))


def test_every_structure_is_compared() -> None:
    declared = {
        value for value in vars(bindings).values() if inspect.isclass(value) and issubclass(value, ctypes.Structure)
    }
    assert set(bindings.STRUCTURES.values()) == declared


def test_every_exported_function_is_declared() -> None:
    """Check that each function is declared; ctypes would call an undeclared one with addresses and sizes cut to 32 bits."""
    sources = "".join(path.read_text() for path in SOURCE_DIRECTORY.iterdir() if path.suffix in (".c", ".h"))
    exported = set(re.findall(r"^EXPORT \w+ (\w+)\(", sources, re.MULTILINE))
    assert exported > set(bindings.KERNELS)
    library = native_library()
    assert {name for name in exported if getattr(library, name).argtypes is None} == set()


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (SWAPPED, r"'x' \(8 bytes at 0\), but GatherCall has 'rows' \(8 bytes at 0\)"),
        (NARROWER, r"'size' \(8 bytes at 24\), but GatherCall has 'size' \(4 bytes at 24\)"),
        (WITHOUT, r"'size' \(8 bytes at 24\), but GatherCall has its end at 24"),
        (WITH_ANOTHER, r"its end at 32, but GatherCall has 'factor' \(4 bytes at 32\)"),
    ],
    ids=["swapped", "narrower", "without", "with-another"],
)
def test_a_structure_that_drifted(
    structure: type[ctypes.Structure], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bindings.STRUCTURES, "gather_call", structure)
    with pytest.raises(LayoutError, match=f"^struct gather_call has {message}$"):
        native_library()


def test_torch_computes_instead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(bindings.STRUCTURES, "gather_call", SWAPPED)
    monkeypatch.setattr(load, "architectures", lambda: ["narrow"])
    monkeypatch.setattr(load, "build_library", lambda directory, compiler, architecture: directory)
    monkeypatch.setattr(load, "load_library", lambda path: native_library())
    assert type(load.load_integer_kernels(tmp_path)) is IntegerKernels
    (warning,) = caplog.records
    assert "for 'narrow': struct gather_call has 'x'" in warning.__dict__["reason"]
