"""Strange messages of a contract, which no version of Pagoda sends: every field absent, usual, at an edge or absurd."""

import math
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

M = TypeVar("M", bound=Message)

_MAX_DEPTH = 5
_UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32: 32, FieldDescriptor.CPPTYPE_UINT64: 64}
_SIGNED = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64}
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
_TEXTS = st.sampled_from(["", "x", "fake", "r", "\x00\n\t", "ü" * 600, "x" * 70_000])


def messages(kind: type[M]) -> st.SearchStrategy[M]:
    """Return a strategy for messages with few fields, so that no field hides the effect of another."""
    descriptor: Any = kind.DESCRIPTOR
    return _messages(descriptor, _MAX_DEPTH)


def _messages(descriptor: Descriptor, depth: int) -> st.SearchStrategy[Any]:
    usable = [field for field in descriptor.fields if depth or field.message_type is None]
    chosen = st.lists(st.sampled_from(usable), unique_by=lambda field: field.name) if usable else st.just([])
    return chosen.flatmap(
        lambda fields: st.fixed_dictionaries({field.name: _values(field, depth) for field in fields})
    ).map(lambda values: _made(descriptor, values))


def _made(descriptor: Descriptor, values: dict[str, Any]) -> Any:
    message: Any = GetMessageClass(descriptor)()
    for name, value in values.items():
        field = descriptor.fields_by_name[name]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, name).update(value)
        elif field.is_repeated:
            getattr(message, name).extend(value)
        elif field.message_type is not None:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return st.dictionaries(_one(key, depth), _one(value, depth), max_size=3)
    one = _one(field, depth)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _one(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return _messages(field.message_type, depth - 1)
    if (bits := _UNSIGNED.get(field.cpp_type)) is not None:
        return st.sampled_from([0, 1, 2, 16, 64, 1000, 60_000_000, 2**31, 2**bits - 1])
    if (bits := _SIGNED.get(field.cpp_type)) is not None:
        return st.sampled_from([0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))])
    if field.cpp_type in _FLOATS:
        return st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e30, math.inf, -math.inf, math.nan])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from([b"", b"x" * 16, b"x" * 100])
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from([0, 1, 99])
    return _TEXTS
