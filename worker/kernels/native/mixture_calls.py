"""The structures of a mixture of experts, as in bindings.py."""

import ctypes
from ctypes import c_float, c_int64
from ctypes import c_void_p as POINTER


class RouteCall(ctypes.Structure):
    _fields_ = (
        ("x", POINTER),
        ("router", POINTER),
        ("scales", POINTER),
        ("y", POINTER),
        ("rows", POINTER),
        ("size", c_int64),
        ("num_rows", c_int64),
        ("num_experts", c_int64),
        ("num_used", c_int64),
        ("renormalizes", c_int64),
        ("inverse_levels", c_float),
    )


class ExpertsCall(ctypes.Structure):
    _fields_ = (
        ("x", POINTER),
        ("routing", POINTER),
        ("shared", POINTER),
        ("y", POINTER),
        ("gate", POINTER),
        ("up", POINTER),
        ("down", POINTER),
        ("places", POINTER),
        ("tokens", POINTER),
        ("rows", POINTER),
        ("gate_rows", POINTER),
        ("up_rows", POINTER),
        ("down_rows", POINTER),
        ("gates", POINTER),
        ("ups", POINTER),
        ("results", POINTER),
        ("size", c_int64),
        ("inner_size", c_int64),
        ("num_weights", c_int64),
        ("num_experts", c_int64),
        ("num_used", c_int64),
    )
