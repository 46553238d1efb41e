"""Reads GGUF files (versions 2 and 3): the metadata when a file is opened, the tensors as views of the mapped file.

A model may be in several parts, which are opened together. gguf_config.py interprets the metadata; the worker interprets the bytes
of tensors. A file may be truncated, damaged or hostile. So every size and count is checked against the file's length before it is
used.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from pagoda.models.formats.ggml_type import GGMLType
from pagoda.models.formats.gguf_parts import NUM_TENSORS_KEY, GGUFError, check_num_tensors, check_place, part_files
from pagoda.models.formats.mapped_file import forget, map_file

__all__ = ["GGMLType", "GGUFError", "GGUFFile", "GGUFPart", "GGUFTensor", "headers_kept"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_ARRAY_LENGTH = 1 << 22
"""Longest metadata array: 16 times the largest vocabulary, and short enough that a hostile file costs little memory."""
MAX_ARRAY_DEPTH = 4
MIN_METADATA_BYTES = 8 + 4 + 1
"""Size of the shortest metadata entry: length of an empty key, type of the value, one byte."""
MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
"""Size of the shortest tensor description: length of an empty name, number of dimensions, one dimension, type, offset."""

STRING, ARRAY = 8, 9
SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
SMALLEST_ELEMENT_BYTES = {STRING: 8, ARRAY: 12} | {
    number: struct.calcsize(code) for number, code in SCALAR_FORMATS.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFTensor:
    """The description of a tensor."""

    name: str
    shape: tuple[int, ...]
    """Dimensions in row-major order, as in torch: the last one is contiguous. GGUF writes them in reverse order."""
    ggml_type: GGMLType
    num_bytes: int
    offset: int
    """Position of the data from the start of its file."""


class GGUFFile:
    """An open GGUF model, usable as a context manager. Views from `tensor_data` keep the mapping alive after it is closed."""

    metadata: Mapping[str, Any]
    """Values by key. Scalars are int, float, bool or str; arrays are lists."""
    tensors: Mapping[str, GGUFTensor]

    def __init__(self, path: Path | str) -> None:
        """Open the model whose only file, or whose first part, is `path`. Raises GGUFError."""
        self.path = Path(path)
        first = GGUFPart(self.path)
        self._files = [first.data]
        self._file_of: dict[str, memoryview] = {}
        """Files of the tensors, if the model is in parts."""
        self.metadata, self.tensors = first.metadata, first.tensors
        try:
            if check_place(self.path, first.metadata, 1).count > 1:
                self.tensors = MappingProxyType(self._open_other_parts(first))
        except BaseException:
            self.close()
            raise

    def _open_other_parts(self, first: "GGUFPart") -> dict[str, GGUFTensor]:
        """Open the other parts. Return the tensors of all."""
        tensors = dict(first.tensors)
        self._file_of = dict.fromkeys(tensors, first.data)
        for number, path in enumerate(part_files(self.path)[1:], start=2):
            part = GGUFPart(path)
            self._files.append(part.data)
            check_place(path, part.metadata, number)
            check_num_tensors(path, part.metadata, first.metadata)
            for name in part.tensors.keys() & tensors.keys():
                raise GGUFError(f"{path}: the tensor {name!r} is also in an earlier part")
            tensors |= part.tensors
            self._file_of |= dict.fromkeys(part.tensors, part.data)
        check_num_tensors(self.path, first.metadata, {NUM_TENSORS_KEY: len(tensors)})
        return tensors

    def tensor_data(self, name: str) -> memoryview:
        tensor = self.tensors[name]
        return self._data_of(name)[tensor.offset : tensor.offset + tensor.num_bytes]

    def forget(self, name: str) -> None:
        """Free the memory that the tensor's pages take in this process. A later access reads them from the file again."""
        tensor = self.tensors[name]
        forget(self._data_of(name), tensor.offset, tensor.num_bytes)

    def forget_rows(self, name: str, first: int, end: int) -> None:
        """Free the memory of some rows of a matrix, as `forget` does."""
        tensor = self.tensors[name]
        row_bytes = tensor.num_bytes // tensor.shape[0]
        forget(self._data_of(name), tensor.offset + first * row_bytes, (end - first) * row_bytes)

    def _data_of(self, name: str) -> memoryview:
        """Return the content of the file that has the tensor."""
        return self._file_of.get(name, self._files[0])

    def close(self) -> None:
        for data in self._files:
            data.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class GGUFPart:
    """One mapped file, read alone: a whole model, or a part of one."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]
    data: memoryview
    """Content of the file, to be released."""
    header_bytes: int
    """Size of the metadata and the descriptions of the tensors, in bytes."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises GGUFError."""
        self.data = _map_file(path)
        kept, state = _kept_headers.get({}), _state_of(path)
        header = kept.get(state) or self._parse(path)
        self.metadata, self.tensors, self.header_bytes = kept[state] = header

    def _parse(self, path: Path) -> "_Header":
        cursor = _Cursor(self.data)
        try:
            num_tensors, num_metadata = _read_header(cursor)
            metadata = MappingProxyType(_read_metadata(cursor, num_metadata))
            tensors = MappingProxyType(_read_tensors(cursor, num_tensors, _alignment(metadata)))
        except GGUFError as error:
            self.data.release()
            named = GGUFError(f"{path}: {error}")
            named.position = cursor.position
            raise named from None
        return metadata, tensors, cursor.position


_Header = tuple[Mapping[str, Any], Mapping[str, GGUFTensor], int]
_kept_headers: ContextVar[dict[object, _Header]] = ContextVar("_kept_headers")


@contextmanager
def headers_kept() -> Iterator[None]:
    """Keep the headers that are read in this block, since each takes 0.1 s for a large vocabulary. Their values are not copied."""
    token = _kept_headers.set({})
    try:
        yield
    finally:
        _kept_headers.reset(token)


def _state_of(path: Path) -> object:
    """Return a value that differs after the file was replaced or written."""
    status = path.stat()
    return path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _map_file(path: Path) -> memoryview:
    if path.stat().st_size == 0:
        raise GGUFError(f"{path}: the file is empty")
    return map_file(path)


class _Cursor:
    """A position in the file from which little-endian values are read, never beyond its end."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.position = 0

    @property
    def size(self) -> int:
        return len(self._data)

    def require(self, num_bytes: int, what: str) -> None:
        left = self.size - self.position
        if num_bytes > left:
            raise GGUFError(f"truncated or damaged: {what} needs {num_bytes} bytes, but only {left} are left")

    def take(self, num_bytes: int, what: str) -> memoryview:
        self.require(num_bytes, what)
        start = self.position
        self.position += num_bytes
        return self._data[start : self.position]

    def scalars(self, code: str, count: int, what: str) -> tuple[Any, ...]:
        layout = f"<{count}{code}"
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def uint32(self, what: str) -> int:
        return int(self.scalars("I", 1, what)[0])

    def uint64(self, what: str) -> int:
        return int(self.scalars("Q", 1, what)[0])

    def string(self, what: str) -> str:
        data = self.take(self.uint64(what), what)
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise GGUFError(f"damaged: {what} is not UTF-8") from None

    def strings(self, count: int, what: str) -> list[str]:
        """Read several strings. Like `string`, but faster, because a vocabulary and its merges are 100,000 strings."""
        data, position, size = self._data, self.position, self.size
        length_at = struct.Struct("<Q").unpack_from
        result = []
        for _ in range(count):
            start = position + 8
            if start > size or (position := start + length_at(data, position)[0]) > size:
                self.position = start
                raise GGUFError(f"truncated or damaged: a string of {what} ends past the end of the file")
            try:
                result.append(str(data[start:position], "utf-8"))
            except UnicodeDecodeError:
                self.position = position
                raise GGUFError(f"damaged: a string of {what} is not UTF-8") from None
        self.position = position
        return result


def _read_header(cursor: _Cursor) -> tuple[int, int]:
    """Return the numbers of tensors and of metadata keys."""
    if cursor.take(4, "the magic number") != MAGIC:
        raise GGUFError("not a GGUF file (it does not begin with 'GGUF')")
    version = cursor.uint32("the version")
    if version not in VERSIONS:
        big_endian = "; big-endian files are not supported either" if version & 0xFFFF == 0 else ""
        raise GGUFError(f"GGUF version {version} is not supported (supported: 2, 3){big_endian}")
    num_tensors = cursor.uint64("the number of tensors")
    num_metadata = cursor.uint64("the number of metadata keys")
    cursor.require(num_metadata * MIN_METADATA_BYTES + num_tensors * MIN_TENSOR_BYTES, "the announced content")
    return num_tensors, num_metadata


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.string("a metadata key")
        if key in metadata:
            raise GGUFError(f"damaged: the metadata key {key!r} occurs twice")
        metadata[key] = _read_value(cursor, cursor.uint32(key), key)
    return metadata


def _read_value(cursor: _Cursor, value_type: int, key: str, depth: int = 0) -> Any:
    if value_type == STRING:
        return cursor.string(key)
    if value_type == ARRAY:
        return _read_array(cursor, key, depth + 1)
    if value_type in SCALAR_FORMATS:
        return cursor.scalars(SCALAR_FORMATS[value_type], 1, key)[0]
    raise GGUFError(f"damaged: the metadata key {key!r} has the unknown value type {value_type}")


def _read_array(cursor: _Cursor, key: str, depth: int) -> list[Any]:
    element_type = cursor.uint32(key)
    count = cursor.uint64(key)
    if element_type not in SMALLEST_ELEMENT_BYTES:
        raise GGUFError(f"damaged: the array {key!r} has the unknown element type {element_type}")
    cursor.require(count * SMALLEST_ELEMENT_BYTES[element_type], f"the array {key!r}")
    if count > MAX_ARRAY_LENGTH:
        raise GGUFError(f"the array {key!r} must have at most {MAX_ARRAY_LENGTH} elements (got {count})")
    if depth > MAX_ARRAY_DEPTH:
        raise GGUFError(f"the array {key!r} is nested more than {MAX_ARRAY_DEPTH} levels deep")
    if element_type == STRING:
        return cursor.strings(count, key)
    if element_type == ARRAY:
        return [_read_array(cursor, key, depth + 1) for _ in range(count)]
    return list(cursor.scalars(SCALAR_FORMATS[element_type], count, key))


def _alignment(metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8 or alignment > 1 << 20:
        raise GGUFError(f"damaged: general.alignment must be a multiple of 8, at most 1 MiB (got {alignment!r})")
    return alignment


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, GGUFTensor]:
    described = [_read_tensor(cursor) for _ in range(count)]
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, ggml_type, relative_offset in described:
        num_bytes = _tensor_bytes(name, shape, ggml_type)
        offset = start + relative_offset
        if relative_offset % alignment:
            raise GGUFError(f"damaged: the tensor {name!r} is not aligned to {alignment} bytes")
        if offset + num_bytes > cursor.size:
            raise GGUFError(f"truncated: the tensor {name!r} ends at {offset + num_bytes}, the file at {cursor.size}")
        if name in tensors:
            raise GGUFError(f"damaged: the tensor {name!r} occurs twice")
        tensors[name] = GGUFTensor(name=name, shape=shape, ggml_type=ggml_type, num_bytes=num_bytes, offset=offset)
    _check_no_overlap(tensors.values())
    return tensors


def _check_no_overlap(tensors: Iterable[GGUFTensor]) -> None:
    """Raise GGUFError if tensors overlap: otherwise a small file could describe any number of large tensors."""
    for one, other in pairwise(sorted(tensors, key=lambda tensor: tensor.offset)):
        if one.offset + one.num_bytes > other.offset:
            raise GGUFError(f"damaged: the tensors {one.name!r} and {other.name!r} overlap")


def _read_tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], GGMLType, int]:
    name = cursor.string("a tensor's name")
    num_dimensions = cursor.uint32(name)
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise GGUFError(
            f"damaged: the tensor {name!r} must have 1 to {MAX_DIMENSIONS} dimensions (got {num_dimensions})"
        )
    shape = tuple(reversed(cursor.scalars("Q", num_dimensions, name)))
    number = cursor.uint32(name)
    ggml_type = GGMLType.from_number(number)
    if ggml_type is None:
        raise GGUFError(f"the tensor {name!r} has the unknown type {number}")
    return name, shape, ggml_type, cursor.uint64(name)


def _tensor_bytes(name: str, shape: tuple[int, ...], ggml_type: GGMLType) -> int:
    if 0 in shape or shape[-1] % ggml_type.block_size:
        raise GGUFError(
            f"damaged: the tensor {name!r} of shape {list(shape)} cannot consist of {ggml_type.name} blocks "
            f"of {ggml_type.block_size} values"
        )
    return prod(shape) // ggml_type.block_size * ggml_type.block_bytes
