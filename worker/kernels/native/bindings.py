"""Bindings to the native library's functions: each takes a structure of addresses and sizes, and a number of rows.

Each structure here mirrors one in source/, whose comments explain the fields. `load_library` compares the two field by field
and rejects a library in which one of them differs.
"""

import ctypes
from ctypes import c_char_p, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path

from worker.kernels.native.layout_check import check_layout
from worker.kernels.native.mixture_calls import ExpertsCall, RouteCall
from worker.kernels.native.packing_calls import EmbedCall, FloatsPackCall, GroupedPackCall, PackedFileCall

POINTER = c_void_p


class LinearSegment(ctypes.Structure):
    """One of the matrices of a linear, in a format of its own."""

    _fields_ = (
        ("format", POINTER),
        ("panels", POINTER),
        ("first_out", c_int64),
        ("num_out", c_int64),
    )


class LinearCall(ctypes.Structure):
    """The arguments of a linear of matrices whose formats round inputs alike."""

    _fields_ = (
        ("x", POINTER),
        ("segments", POINTER),
        ("bias", POINTER),
        ("y", POINTER),
        ("rows", POINTER),
        ("input_order", POINTER),
        ("num_segments", c_int64),
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
        ("scale_length", c_int64),
    )


class AttentionStep(ctypes.Structure):
    """The description of a step for attention, the same for all layers with the same window."""

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
        ("num_parts", c_int64),
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
        ("mask", POINTER),
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


Call = (
    LinearCall
    | RMSNormCall
    | ActivationCall
    | PointwiseCall
    | RouteCall
    | ExpertsCall
    | RopeCall
    | GatherCall
    | EmbedCall
    | WriteKVCall
    | AttentionCall
)
KERNELS = (
    "linear",
    "rms_norm",
    "silu_mul",
    "gelu_tanh_mul",
    "add",
    "scale",
    "cap",
    "route",
    "experts",
    "rope",
    "gather_rows",
    "embed_floats",
    "embed_packed",
    "write_kv",
    "attention",
)
"""The kernels. Each takes its structure and the number of rows; `load_library` declares them, `find_kernel` finds them."""


class Launch(ctypes.Structure):
    """One launch of a recorded step, for `replay`."""

    _fields_ = (
        ("kernel", POINTER),
        ("call", POINTER),
        ("rows", c_int64),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "linear_segment": LinearSegment,
    "linear_of_segments_call": LinearCall,
    "grouped_pack_call": GroupedPackCall,
    "floats_pack_call": FloatsPackCall,
    "packed_file_call": PackedFileCall,
    "rms_norm_call": RMSNormCall,
    "activation_call": ActivationCall,
    "pointwise_call": PointwiseCall,
    "route_call": RouteCall,
    "experts_call": ExpertsCall,
    "rope_call": RopeCall,
    "gather_call": GatherCall,
    "embed_call": EmbedCall,
    "write_kv_call": WriteKVCall,
    "attention_step": AttentionStep,
    "attention_call": AttentionCall,
    "choice": ChoiceOfRow,
    "choose_call": ChooseCall,
    "launch": Launch,
}
"""The structures, by their names in C."""


class UndeclaredKernelError(Exception):
    """The launched kernel is not in KERNELS; the message names it."""


def load_library(path: Path) -> ctypes.CDLL:
    """Load the library and declare its functions.

    Raises OSError if the file is not a library for this machine, AttributeError if it lacks a function, LayoutError if one of
    its structures differs.
    """
    library = ctypes.CDLL(str(path))
    for name, structure in STRUCTURES.items():
        check_layout(library, name, structure)
    for kernel in KERNELS:
        _declare(library, kernel, None, POINTER, c_int64)
    _declare(library, "replay", None, POINTER, c_int64, POINTER)
    for function in ("pack_floats", "pack_grouped", "read_packed"):
        _declare(library, function, None, POINTER)
    _declare(library, "unpack_grouped_row", None, POINTER, POINTER, c_int64, c_int64, POINTER)
    _declare(library, "choose_tokens", None, POINTER, c_int64)
    _declare_short(library, "set_threads", None, c_int64)
    _declare_short(library, "find_grouped_format", c_void_p, c_char_p)
    _declare_short(library, "panels_bytes", c_int64, c_void_p, c_int64, c_int64)
    _declare_short(library, "scratch_bytes", c_int64, c_void_p, c_int64)
    _declare_short(library, "round_alike", c_int64, c_void_p, c_void_p)
    _declare_short(library, "attention_scratch_bytes", c_int64, c_int64, c_int64, c_int64, c_int64)
    _declare_short(library, "choose_scratch_bytes", c_int64, c_int64)
    return library


def find_kernel(library: ctypes.CDLL, kernel: str) -> "ctypes._NamedFuncPointer":
    """Return the function of one of KERNELS. Raises UndeclaredKernelError for any other name."""
    if kernel not in KERNELS:
        raise UndeclaredKernelError(
            f"the kernel {kernel!r} is not in KERNELS of {Path(__file__).name}; only kernels there have declared arguments"
        )
    function: ctypes._NamedFuncPointer = getattr(library, kernel)
    return function


def find_byte_format(library: ctypes.CDLL) -> int:
    """Return the address of the format of Hadamard-rotated bytes."""
    return ctypes.addressof(ctypes.c_char.in_dll(library, "hadamard_int8_format"))


def find_grouped_format(library: ctypes.CDLL, name: str) -> int | None:
    """Return the address of the grouped format with this name, or None."""
    address: int | None = library.find_grouped_format(name.encode())
    return address


def _declare(
    library: ctypes.CDLL, name: str, result: type[c_int64] | None, *arguments: type[c_void_p | c_int64]
) -> None:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)


def _declare_short(
    library: ctypes.CDLL,
    name: str,
    result: type[c_int64 | c_void_p] | None,
    *arguments: type[c_int64 | c_void_p | c_char_p],
) -> None:
    """Declare a function that returns immediately and keeps Python's lock.

    If it released the lock, another thread could hold it for a long time.
    """
    setattr(library, name, ctypes.PYFUNCTYPE(result, *arguments)((name, library)))
