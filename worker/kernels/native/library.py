"""The native library's functions, as Python calls them: a structure of addresses and sizes, and a number of rows.

Each structure is the C structure of the same fields that its kernel reads; what a kernel does is said in source/. Knows nothing
about tensors.
"""

import ctypes
from ctypes import c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path

POINTER = c_void_p


class LinearCall(ctypes.Structure):
    """For each kind of panels."""

    _fields_ = (
        ("x", POINTER),
        ("panels", POINTER),
        ("bias", POINTER),
        ("y", POINTER),
        ("rows", POINTER),
        ("num_in", c_int64),
        ("num_out", c_int64),
    )


class RMSNormCall(ctypes.Structure):
    _fields_ = (
        ("x", POINTER),
        ("weight", POINTER),
        ("y", POINTER),
        ("token_stride", c_int64),
        ("num_heads", c_int64),
        ("size", c_int64),
        ("inverse_levels", c_float),
        ("inverse_size", c_double),
        ("eps", c_double),
    )


class ActivationCall(ctypes.Structure):
    _fields_ = (
        ("gate_up", POINTER),
        ("y", POINTER),
        ("size", c_int64),
        ("square_factor", c_float),
        ("factor", c_float),
    )


class PointwiseCall(ctypes.Structure):
    _fields_ = (
        ("x", POINTER),
        ("other", POINTER),
        ("y", POINTER),
        ("size", c_int64),
        ("factor", c_float),
        ("inverse_factor", c_float),
    )


class RopeCall(ctypes.Structure):
    _fields_ = (
        ("x", POINTER),
        ("cos", POINTER),
        ("sin", POINTER),
        ("y", POINTER),
        ("token_stride", c_int64),
        ("num_heads", c_int64),
        ("head_size", c_int64),
        ("rotated_size", c_int64),
    )


class GatherCall(ctypes.Structure):
    _fields_ = (
        ("x", POINTER),
        ("rows", POINTER),
        ("y", POINTER),
        ("size", c_int64),
    )


class WriteKVCall(ctypes.Structure):
    _fields_ = (
        ("keys", POINTER),
        ("values", POINTER),
        ("slots", POINTER),
        ("integers", POINTER),
        ("scales", POINTER),
        ("keys_stride", c_int64),
        ("values_stride", c_int64),
        ("num_heads", c_int64),
        ("head_size", c_int64),
        ("page_size", c_int64),
        ("element_bytes", c_int64),
    )


class AttentionStep(ctypes.Structure):
    """What attention knows of a step: the same for all layers with the same window."""

    _fields_ = (
        ("tables", POINTER),
        ("items", POINTER),
        ("scratch", POINTER),
        ("table_width", c_int64),
        ("num_items", c_int64),
        ("scratch_bytes", c_int64),
    )


class AttentionCall(ctypes.Structure):
    _fields_ = (
        ("q", POINTER),
        ("out", POINTER),
        ("kv", POINTER),
        ("kv_scales", POINTER),
        ("step", POINTER),
        ("q_stride", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_size", c_int64),
        ("page_size", c_int64),
        ("element_bytes", c_int64),
        ("window", c_int64),
        ("score_factor", c_float),
        ("cap_factor", c_float),
    )


class ChoiceOfRow(ctypes.Structure):
    _fields_ = (
        ("logits", POINTER),
        ("bits", c_uint64),
        ("top_k", c_int64),
        ("top_p", c_double),
        ("least_weight", c_int32),
        ("factor", c_float),
        ("bias_ids", POINTER),
        ("bias", POINTER),
        ("num_bias", c_int64),
        ("banned_ids", POINTER),
        ("num_banned", c_int64),
        ("counts", POINTER),
        ("counts_stride", c_int64),
        ("num_counts", c_int64),
        ("frequency_penalty", c_double),
        ("presence_penalty", c_double),
        ("repetition_penalty", c_float),
    )


class ChooseCall(ctypes.Structure):
    _fields_ = (
        ("choices", POINTER),
        ("token_ids", POINTER),
        ("chosen_logits", POINTER),
        ("scratch", POINTER),
        ("scratch_bytes", c_int64),
        ("vocab_size", c_int64),
    )


Call = LinearCall | RMSNormCall | ActivationCall | PointwiseCall | RopeCall | GatherCall | WriteKVCall | AttentionCall
KERNELS = (
    "linear",
    "linear_four_bit",
    "linear_four_bit_half",
    "rms_norm",
    "silu_mul",
    "gelu_tanh_mul",
    "add",
    "scale",
    "cap",
    "rope",
    "gather_rows",
    "write_kv",
    "attention",
)
"""Each takes its structure and the number of rows to compute."""


class Launch(ctypes.Structure):
    """`struct launch` of source/replay.c."""

    _fields_ = (
        ("kernel", POINTER),
        ("call", POINTER),
        ("rows", c_int64),
    )


def load_library(path: Path) -> ctypes.CDLL:
    """Raises OSError if the file is no library of this machine, AttributeError if it lacks a function."""
    library = ctypes.CDLL(str(path))
    for kernel in KERNELS:
        _declare(library, kernel, None, POINTER, c_int64)
    _declare(library, "replay", None, POINTER, c_int64, POINTER)
    _declare(library, "pack_panels", None, POINTER, POINTER, c_int64, c_int64)
    _declare(library, "pack_four_bit_panels", None, POINTER, POINTER, POINTER, POINTER, c_int64, c_int64, c_int64)
    _declare(library, "choose_tokens", None, POINTER, c_int64)
    _declare_short(library, "set_threads", None, c_int64)
    _declare_short(library, "panels_bytes", c_int64, c_int64, c_int64)
    _declare_short(library, "linear_scratch_bytes", c_int64, c_int64)
    _declare_short(library, "four_bit_panels_bytes", c_int64, c_int64, c_int64, c_int64)
    _declare_short(library, "four_bit_scratch_bytes", c_int64, c_int64)
    _declare_short(library, "attention_scratch_bytes", c_int64, c_int64, c_int64, c_int64)
    _declare_short(library, "choose_scratch_bytes", c_int64, c_int64)
    return library


def _declare(
    library: ctypes.CDLL, name: str, result: type[c_int64] | None, *arguments: type[c_void_p | c_int64]
) -> None:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)


def _declare_short(library: ctypes.CDLL, name: str, result: type[c_int64] | None, *arguments: type[c_int64]) -> None:
    """A function that returns at once keeps Python's lock: given up, another thread takes it and has it for as long as it wants."""
    setattr(library, name, ctypes.PYFUNCTYPE(result, *arguments)((name, library)))
