"""The native library's functions, as Python calls them: addresses and numbers.

Knows nothing about tensors. What each function does is said in source/.
"""

import ctypes
from ctypes import c_double, c_float, c_int64, c_void_p
from pathlib import Path
from typing import Any

POINTER = c_void_p
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "panel_width": (c_int64, []),
    "pack_panels": (None, [POINTER, POINTER, c_int64, c_int64]),
    "linear_parts": (c_int64, [c_int64]),
    "linear": (None, [POINTER] * 7 + [c_int64] * 4),
    "rms_norm": (None, [POINTER, c_int64, POINTER, POINTER, c_int64, c_int64, c_int64, c_float, c_double, c_double]),
    "silu_mul": (None, [POINTER, POINTER, c_int64, c_int64]),
    "gelu_tanh_mul": (None, [POINTER, POINTER, c_int64, c_int64, c_float, c_float]),
    "add": (None, [POINTER, POINTER, POINTER, c_int64]),
    "scale": (None, [POINTER, POINTER, c_int64, c_float]),
    "cap": (None, [POINTER, POINTER, c_int64, c_float, c_float]),
    "rope": (None, [POINTER, c_int64, POINTER, POINTER, POINTER] + [c_int64] * 4),
    "write_kv": (None, [POINTER, c_int64, POINTER, c_int64, POINTER, POINTER, POINTER] + [c_int64] * 4),
    "attention_scratch_bytes": (c_int64, [c_int64] * 3),
    "attention": (None, [POINTER, c_int64]),
}
"""Result and arguments, by name."""


class AttentionCall(ctypes.Structure):
    """`struct attention_call` of source/attention.c."""

    _fields_ = (
        ("q", POINTER),
        ("out", POINTER),
        ("kv", POINTER),
        ("kv_scales", POINTER),
        ("tables", POINTER),
        ("items", POINTER),
        ("scratch", POINTER),
        ("q_stride", c_int64),
        ("table_width", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_size", c_int64),
        ("page_size", c_int64),
        ("window", c_int64),
        ("scratch_bytes", c_int64),
        ("num_threads", c_int64),
        ("score_factor", c_float),
        ("cap_factor", c_float),
    )


def load_library(path: Path) -> ctypes.CDLL:
    """Raises OSError if the file is no library of this machine, AttributeError if it lacks a function."""
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
