"""GGUF models in parts: read like the whole file, and refused if a part is missing, damaged or of another model."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.chat_template_text import chat_template_text
from pagoda.models.formats.description import describe
from pagoda.models.formats.gguf_file import GGUFError, GGUFFile
from pagoda.models.formats.gguf_parts import MAX_PARTS, first_part, model_stem, part_files
from pagoda.models.formats.tensor_check import check_tensors
from tests.fakes.tiny_model import write_tiny_gguf

NUM_TENSORS = 21  # of the tiny model with two layers


def write_part(path: Path, split: Mapping[str, Any], tensors: Mapping[str, int]) -> Path:
    """Write a file with `split.*` keys and tensors of the given lengths."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in split.items():
        add = writer.add_string if isinstance(value, str) else writer.add_int64
        add(f"split.{key}", value)
    for name, length in tensors.items():
        writer.add_tensor(name, np.full(length, len(name), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "whole.gguf", weight_type="Q8_0")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", weight_type="Q8_0", tensors_per_part=8)


def test_the_parts_are_named_as_gguf_split_names_them(first: Path) -> None:
    assert [path.name for path in part_files(first)] == [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize("first_part_is_empty", [False, True])
@pytest.mark.parametrize("tensors_per_part", [1, 8, 20])
def test_parts_have_what_the_whole_file_has(
    whole: Path, tmp_path: Path, tensors_per_part: int, first_part_is_empty: bool
) -> None:
    first = write_tiny_gguf(
        tmp_path / "tiny.gguf",
        weight_type="Q8_0",
        tensors_per_part=tensors_per_part,
        first_part_is_empty=first_part_is_empty,
    )
    assert len(part_files(first)) == -(-NUM_TENSORS // tensors_per_part) + first_part_is_empty
    with GGUFFile(whole) as one, GGUFFile(first) as several:
        assert {key: value for key, value in several.metadata.items() if not key.startswith("split.")} == one.metadata
        assert list(several.tensors) == list(one.tensors) and len(one.tensors) == NUM_TENSORS
        for name, tensor in one.tensors.items():
            assert replace(several.tensors[name], offset=0) == replace(tensor, offset=0)
            data = bytes(one.tensor_data(name))
            assert bytes(several.tensor_data(name)) == data
            several.forget(name)
            assert bytes(several.tensor_data(name)) == data


def test_views_outlive_the_parts(first: Path) -> None:
    with GGUFFile(first) as file:
        views = [file.tensor_data(name) for name in file.tensors]
        before = [bytes(view) for view in views]
    assert [bytes(view) for view in views] == before


def test_a_model_in_parts_is_described_like_the_whole(whole: Path, first: Path) -> None:
    one, several = (describe("m", path, digest="", size_bytes=0) for path in (whole, first))
    check_tensors(several)
    assert replace(several, path=whole) == one
    assert chat_template_text(several) == chat_template_text(one)


def test_headers_alone_are_enough(first: Path) -> None:
    """Sparse files with the right sizes have holes in place of the tensors."""
    for path in part_files(first):
        size, reader = path.stat().st_size, gguf.GGUFReader(path)
        header_bytes = min((int(tensor.data_offset) for tensor in reader.tensors), default=size)
        os.truncate(path, header_bytes)
        os.truncate(path, size)
    check_tensors(describe("m", first, digest="", size_bytes=0))


def test_names_in_a_cache_are_those_of_links(first: Path, tmp_path: Path) -> None:
    """The hub's cache has links with the names and, elsewhere, files named by their hashes."""
    snapshot, blobs = tmp_path / "snapshots" / "c0ffee", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(part_files(first)):
        path.rename(blobs / f"{number}abc")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number}abc")
    with GGUFFile(snapshot / first.name) as file:
        assert len(file.tensors) == NUM_TENSORS


@pytest.mark.parametrize(
    ("name", "stem", "first_name"),
    [
        ("m-00002-of-00003.gguf", "m", "m-00001-of-00003.gguf"),
        ("m-00001-of-00001.gguf", "m-00001-of-00001", "m-00001-of-00001.gguf"),
        ("m-00004-of-00003.gguf", "m-00004-of-00003", "m-00004-of-00003.gguf"),
        ("m-00000-of-00003.gguf", "m-00000-of-00003", "m-00000-of-00003.gguf"),
        ("m-0001-of-00003.gguf", "m-0001-of-00003", "m-0001-of-00003.gguf"),
        ("m-٠٠٠٠١-of-٠٠٠٠٣.gguf", "m-٠٠٠٠١-of-٠٠٠٠٣", "m-٠٠٠٠١-of-٠٠٠٠٣.gguf"),  # digits, but not ASCII
        ("m.gguf", "m", "m.gguf"),
    ],
    ids=["part", "of one", "beyond", "zero", "short", "arabic", "whole"],
)
def test_names_of_parts(name: str, stem: str, first_name: str) -> None:
    assert model_stem(Path("d") / name) == stem
    assert first_part(Path("d") / name) == Path("d") / first_name


def test_a_model_in_one_part_is_a_whole_model(tmp_path: Path) -> None:
    path = write_part(tmp_path / "m-00001-of-00001.gguf", {"no": 0, "count": 1, "tensors.count": 1}, {"a": 4})
    with GGUFFile(path) as file:
        assert list(file.tensors) == ["a"]


GOOD: Mapping[str, Any] = {"no": 0, "count": 2, "tensors.count": 2}
OTHER: Mapping[str, Any] = {"no": 1, "count": 2, "tensors.count": 2}


@pytest.mark.parametrize(
    ("one", "two", "two_has", "message"),
    [
        (GOOD, {**OTHER, "no": 0}, {"b": 4}, "m-00002.*its name says part 2 of 2, but its metadata says part 1 of 2"),
        (GOOD, {**OTHER, "count": 3}, {"b": 4}, "m-00002.*its metadata says part 2 of 3; it belongs to another model"),
        (GOOD, {}, {"b": 4}, "m-00002.*its metadata says a whole model"),
        (GOOD, OTHER, {"a": 4}, "m-00002.*the tensor 'a' is also in an earlier part"),
        (GOOD, OTHER, {}, "m-00001.*says that all parts together have 2 tensors .expected 1"),
        (
            GOOD,
            {**OTHER, "tensors.count": 9},
            {"b": 4},
            "m-00002.*says that all parts together have 9 tensors .expected 2",
        ),
        (
            GOOD,
            {**OTHER, "tensors.count": "x" * 999},
            {"b": 4},
            "m-00002.*split.tensors.count must be an integer .got 'x{100}'",
        ),
        (GOOD, {**OTHER, "no": 2}, {"b": 4}, "m-00002.*split.no must be less than split.count, 2"),
        (GOOD, {**OTHER, "no": -1}, {"b": 4}, "m-00002.*split.no must be less than split.count, 2"),
        (GOOD, {**OTHER, "count": "two"}, {"b": 4}, "m-00002.*split.count must be an integer"),
        ({**GOOD, "count": "two"}, OTHER, {"b": 4}, "m-00001.*split.count must be an integer"),
        ({**GOOD, "count": 1 << 40}, OTHER, {"b": 4}, "m-00001.*its name says part 1 of 2"),
        ({}, OTHER, {"b": 4}, "m-00001.*its name says part 1 of 2, but its metadata says a whole model"),
        (OTHER, OTHER, {"b": 4}, "m-00001.*its name says part 1 of 2, but its metadata says part 2 of 2"),
    ],
    ids=[
        "the first twice",
        "of more parts",
        "no part",
        "a tensor twice",
        "too few tensors",
        "other number of tensors",
        "no number of tensors",
        "number too large",
        "number negative",
        "count is text",
        "count of the first is text",
        "count too large",
        "the first is no part",
        "the second twice",
    ],
)
def test_parts_that_do_not_belong_together(
    tmp_path: Path, one: Mapping[str, Any], two: Mapping[str, Any], two_has: Mapping[str, int], message: str
) -> None:
    first = write_part(tmp_path / "m-00001-of-00002.gguf", one, {"a": 4})
    write_part(tmp_path / "m-00002-of-00002.gguf", two, two_has)
    with pytest.raises(GGUFError, match=message) as caught:
        GGUFFile(first)
    assert str(caught.value).count(str(tmp_path)) == 1


def remove(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "is missing: it is part 2 of 3 of the model"),
        (make_directory, "is missing: it is part 2 of 3 of the model"),
        (make_pipe, "is missing: it is part 2 of 3 of the model"),
        (truncate, "truncated"),
        (empty, "the file is empty"),
    ],
)
def test_a_part_that_cannot_be_read_is_named(first: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(first.with_name("tiny-00002-of-00003.gguf"))
    with pytest.raises(ModelFormatError, match=f"tiny-00002-of-00003.gguf.*{message}") as caught:
        describe("m", first, digest="", size_bytes=0)
    assert "00001" not in str(caught.value)


def test_another_part_names_the_first(first: Path) -> None:
    with pytest.raises(GGUFError, match=r"part 2 of 3 of a model; open the first part, tiny-00001-of-00003\.gguf"):
        GGUFFile(first.with_name("tiny-00002-of-00003.gguf"))


def test_a_renamed_part_says_which_name_it_needs(first: Path) -> None:
    renamed = first.rename(first.with_name("model.gguf"))
    with pytest.raises(GGUFError, match=r"part 1 of 3 of a model; its name must end with -00001-of-00003\.gguf"):
        GGUFFile(renamed)


def test_the_number_of_parts_is_limited(tmp_path: Path) -> None:
    count = MAX_PARTS + 1
    path = write_part(tmp_path / f"m-00001-of-{count:05}.gguf", {"no": 0, "count": count}, {"a": 4})
    with pytest.raises(GGUFError, match=f"at most {MAX_PARTS} parts"):
        GGUFFile(path)


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_flipped_bits_never_crash(tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]]) -> None:
    directory = tmp_path_factory.getbasetemp() / "flipped"
    directory.mkdir(exist_ok=True)
    first = write_part(directory / "m-00001-of-00002.gguf", GOOD, {"a": 4})
    second = write_part(directory / "m-00002-of-00002.gguf", OTHER, {"b": 4})
    data = bytearray(second.read_bytes())
    for place, bit in flips:
        data[int(place * len(data))] ^= 1 << bit
    second.write_bytes(data)
    try:
        with GGUFFile(first) as file:
            assert sum(len(file.tensor_data(name)) for name in file.tensors) <= 2 * len(data)
    except GGUFError as error:
        assert str(error)
