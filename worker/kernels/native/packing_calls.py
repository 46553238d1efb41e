"""The structures of packing weights, of reading packed ones, and of gathering an embedding's rows, as in bindings.py."""

import ctypes
from ctypes import c_int64
from ctypes import c_void_p as POINTER


class GroupedPackCall(ctypes.Structure):
    _fields_ = (
        ("format", POINTER),
        ("file", POINTER),
        ("row_order", POINTER),
        ("panels", POINTER),
        ("num_in", c_int64),
        ("num_out", c_int64),
    )


class FloatsPackCall(ctypes.Structure):
    _fields_ = (
        ("floats", POINTER),
        ("row_order", POINTER),
        ("panels", POINTER),
        ("type", c_int64),
        ("num_in", c_int64),
        ("num_out", c_int64),
    )


class EmbedCall(ctypes.Structure):
    _fields_ = (
        ("table", POINTER),
        ("format", POINTER),
        ("rows", POINTER),
        ("y", POINTER),
        ("size", c_int64),
        ("type", c_int64),
    )


class PackedFileCall(ctypes.Structure):
    _fields_ = (
        ("file", c_int64),
        ("offset", c_int64),
        ("memory", POINTER),
        ("num_bytes", c_int64),
        ("piece_bytes", c_int64),
        ("sums", POINTER),
    )
