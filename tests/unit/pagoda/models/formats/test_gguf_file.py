"""The GGUF reader with files of the `gguf` package's writer, and with truncated, damaged and hostile files."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.models.formats.gguf_file import GGMLType, GGUFError, GGUFFile, headers_kept
from tests.fakes.tiny_model import write_tiny_gguf

MEGABYTE = 1 << 20


def write_example(path: Path) -> dict[str, np.ndarray]:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.uint32", 4_000_000_000)
    writer.add_int64("a.int64", -5)
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 1e-300)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "pagoda 塔")
    writer.add_array("a.strings", ["", "ab", "é"])
    writer.add_array("a.ints", [3, 1, 2])
    generator = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {
        "matrix": generator.standard_normal((3, 64)).astype(np.float32),
        "half": generator.standard_normal((2, 5)).astype(np.float16),
        "vector": generator.standard_normal(7).astype(np.float32),
    }
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    for kind in ("Q8_0", "Q4_0", "Q4_1", "BF16"):
        quantized = gguf.quantize(tensors["matrix"], gguf.GGMLQuantizationType[kind])
        writer.add_tensor(kind, quantized, raw_dtype=gguf.GGMLQuantizationType[kind])
        tensors[kind] = quantized
    write_out(writer)
    return tensors


def write_out(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "example.gguf"
    write_example(path)
    return path


def read_everything(path: Path) -> None:
    with GGUFFile(path) as file:
        assert sum(len(file.tensor_data(name)) for name in file.tensors) <= path.stat().st_size


def test_metadata_as_written(example: Path) -> None:
    with GGUFFile(example) as file:
        metadata = dict(file.metadata)
    assert metadata == {
        "general.architecture": "llama",
        "a.uint32": 4_000_000_000,
        "a.int64": -5,
        "a.float32": 0.5,
        "a.float64": 1e-300,
        "a.bool": True,
        "a.string": "pagoda 塔",
        "a.strings": ["", "ab", "é"],
        "a.ints": [3, 1, 2],
    }


def test_tensors_as_written(tmp_path: Path) -> None:
    path = tmp_path / "example.gguf"
    written = write_example(path)
    with GGUFFile(path) as file:
        assert set(file.tensors) == set(written)
        for name, array in written.items():
            assert bytes(file.tensor_data(name)) == array.tobytes()
        assert file.tensors["matrix"].shape == (3, 64)
        assert file.tensors["matrix"].ggml_type is GGMLType.F32
        assert file.tensors["Q4_1"].shape == (3, 64)
        assert file.tensors["Q4_1"].ggml_type is GGMLType.Q4_1


def test_a_forgotten_tensor_takes_no_memory_until_it_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("large", np.arange(1 << 20, dtype=np.float32))
    write_out(writer)
    with GGUFFile(path) as file:
        before = bytes(file.tensor_data("large"))
        held = _resident_kib(path)
        file.forget("large")
        assert held is None or _resident_kib(path) == pytest.approx(held - 4096, abs=64)
        assert bytes(file.tensor_data("large")) == before


def _resident_kib(path: Path) -> int | None:
    """Return the resident size of a mapped file, or None if the system does not report it."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        return None
    _, _, ours = maps.read_text().partition(str(path))
    return int(ours.partition("Rss:")[2].split()[0])


def test_tensor_views_outlive_the_file_object(example: Path) -> None:
    with GGUFFile(example) as file:
        view = file.tensor_data("matrix")
        before = bytes(view)
    assert bytes(view) == before


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    for ggml_type in GGMLType:
        theirs = gguf.GGMLQuantizationType[ggml_type.name]
        assert (ggml_type.number, ggml_type.block_size, ggml_type.block_bytes) == (
            int(theirs),
            *gguf.GGML_QUANT_SIZES[theirs],
        )


def test_every_truncation_is_an_error(example: Path, tmp_path: Path) -> None:
    data = example.read_bytes()
    cut = tmp_path / "cut.gguf"
    # The file ends with the padding behind its last tensor (96 values of BF16 are 384 bytes, already a multiple of 32).
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        with pytest.raises(GGUFError):
            read_everything(cut)


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_flipped_bits_never_crash(example: Path, tmp_path_factory: pytest.TempPathFactory, flips: list) -> None:  # type: ignore[type-arg]  # hypothesis fills it
    data = bytearray(example.read_bytes())
    with GGUFFile(example) as file:
        header_bytes = min(tensor.offset for tensor in file.tensors.values())
    for place, bit in flips:
        data[int(place * header_bytes)] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.gguf"
    path.write_bytes(data)
    try:
        read_everything(path)
    except GGUFError as error:
        assert str(path) in str(error)


def header(version: int = 3, num_tensors: int = 0, num_metadata: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_metadata)


def key(name: str, value_type: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", value_type)


def array(element_type: int, count: int) -> bytes:
    return struct.pack("<IQ", element_type, count)


def tensor(name: str, dimensions: tuple[int, ...], ggml_type: int, offset: int) -> bytes:
    return (
        struct.pack("<Q", len(name))
        + name.encode()
        + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, ggml_type, offset)
    )


LIES = {
    "empty": (b"", "empty"),
    "not gguf": (b"PK\3\4" + bytes(100), "not a GGUF file"),
    "version 1": (header(version=1), "version 1 is not supported"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "number of tensors": (header(num_tensors=2**63), "truncated or damaged"),
    "number of keys": (header(num_metadata=2**40), "truncated or damaged"),
    "length of a key": (header(num_metadata=1) + struct.pack("<Q", 2**62) + bytes(100), "truncated or damaged"),
    "length of an array": (header(num_metadata=1) + key("k", 9) + array(4, 2**60) + bytes(100), "the array 'k'"),
    "length of an array of strings": (header(num_metadata=1) + key("k", 9) + array(8, 2**60) + bytes(9), "the array"),
    "long array": (
        header(num_metadata=1) + key("k", 9) + array(0, 5 * MEGABYTE) + bytes(5 * MEGABYTE),
        "must have at most",
    ),
    "nested arrays": (
        header(num_metadata=1) + key("k", 9) + array(9, 1) * 100 + bytes(100),
        "nested more than 4 levels deep",
    ),
    "value type": (header(num_metadata=1) + key("k", 77) + bytes(100), "unknown value type 77"),
    "element type": (header(num_metadata=1) + key("k", 9) + array(77, 1) + bytes(100), "unknown element type 77"),
    "key twice": (header(num_metadata=2) + (key("k", 0) + b"\1") * 2 + bytes(100), "twice"),
    "key not utf-8": (header(num_metadata=1) + struct.pack("<Q", 1) + b"\xff" + bytes(100), "not UTF-8"),
    "alignment": (
        header(num_metadata=1) + key("general.alignment", 4) + struct.pack("<I", 0) + bytes(100),
        "alignment",
    ),
    "dimensions": (header(num_tensors=1) + tensor("t", (1,) * 9, 0, 0) + bytes(100), r"1 to 4 dimensions \(got 9\)"),
    "shape": (header(num_tensors=1) + tensor("t", (2**63, 2**63), 0, 0) + bytes(100), "truncated"),
    "empty shape": (header(num_tensors=1) + tensor("t", (4, 0), 0, 0) + bytes(100), "shape"),
    "shape of a quantized tensor": (header(num_tensors=1) + tensor("t", (31,), 8, 0) + bytes(100), "Q8_0"),
    "offset": (header(num_tensors=1) + tensor("t", (4,), 0, 2**63) + bytes(100), "truncated"),
    "offset not aligned": (header(num_tensors=1) + tensor("t", (4,), 0, 5) + bytes(100), "not aligned"),
    "tensor type": (header(num_tensors=1) + tensor("t", (4,), 999, 0) + bytes(100), "unknown type 999"),
    "tensor twice": (header(num_tensors=2) + tensor("t", (4,), 0, 0) * 2 + bytes(100), "twice"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_is_an_error_that_says_what_is_wrong(tmp_path: Path, lie: str) -> None:
    data, message = LIES[lie]
    path = tmp_path / "lying.gguf"
    path.write_bytes(data)
    with pytest.raises(GGUFError, match=message) as caught:
        GGUFFile(path)
    assert str(path) in str(caught.value)


def test_a_header_is_read_once_in_a_block_unless_the_file_changes(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with headers_kept():
        with GGUFFile(path) as first, GGUFFile(path) as second:
            assert first.metadata is second.metadata and first.tensors is second.tensors
        write_tiny_gguf(path, num_layers=1)
        with GGUFFile(path) as changed:
            assert changed.metadata["llama.block_count"] == 1
    with GGUFFile(path) as after:
        assert after.metadata == changed.metadata and after.metadata is not changed.metadata
