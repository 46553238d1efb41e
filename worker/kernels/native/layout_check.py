"""A comparison of a structure's layout in the library with that of its mirror in Python (bindings.py)."""

import ctypes
from collections.abc import Iterator
from ctypes import c_char_p, c_int64


class FieldLayout(ctypes.Structure):
    """The `struct field_layout` of source/layout.h: a field, or the end of the structure, which has no name."""

    _fields_ = (
        ("name", c_char_p),
        ("offset", c_int64),
        ("size", c_int64),
    )


class LayoutError(Exception):
    """A structure's layout in the library differs from this module's; the message names the first field that differs."""


def check_layout(library: ctypes.CDLL, name: str, structure: type[ctypes.Structure]) -> None:
    function = getattr(library, f"{name}_layout")
    function.restype, function.argtypes = ctypes.POINTER(FieldLayout), []
    compiled, ours = list(_until_end(function())), list(_layout(structure))
    if compiled != ours:
        theirs, mine = next(pair for pair in zip(compiled, ours, strict=False) if pair[0] != pair[1])
        raise LayoutError(f"struct {name} has {_field(*theirs)}, but {structure.__name__} has {_field(*mine)}")


def _until_end(fields: "ctypes._Pointer[FieldLayout]") -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each field, then the offset and size of the end, with an empty name."""
    index = 0
    while fields[index].name is not None:
        yield fields[index].name.decode(), fields[index].offset, fields[index].size
        index += 1
    yield "", fields[index].offset, fields[index].size


def _layout(structure: type[ctypes.Structure]) -> Iterator[tuple[str, int, int]]:
    for name, *_ in structure._fields_:
        field = getattr(structure, name)
        yield name, field.offset, field.size
    yield "", ctypes.sizeof(structure), ctypes.sizeof(structure)


def _field(name: str, offset: int, size: int) -> str:
    return f"{name!r} ({size} bytes at {offset})" if name else f"its end at {offset}"
