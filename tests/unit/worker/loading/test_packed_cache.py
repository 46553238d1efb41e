"""Tests of the cache of packed weights: a second load packs nothing, and no state of the disk changes a result or fails a load."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from pagoda.models.formats.description import describe
from pagoda.models.model import Model
from pagoda.models.packed_weights import packed_directory, packed_files
from tests.fakes.tiny_model import write_tiny_gguf
from tests.kernels.native import native_kernels, threads
from tests.kernels.stepping import SteppedModel
from worker.kernels.native import packed_file
from worker.loading import packed_cache
from worker.loading.packed_cache import PackedCache
from worker.models.families import load_model

LIMIT = 10_000_000
TOKENS = [5, 6, 7]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(packed_cache, "WRITE_AFTER_S", 0.0)
    monkeypatch.setattr(packed_cache, "LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(packed_file, "PIECE_BYTES", 5000)
    with threads(1):
        yield


def tiny(directory: Path, *, seed: int = 0, weight_type: str = "Q8_0", is_tied: bool = False) -> Model:
    path = write_tiny_gguf(directory / f"{seed}.gguf", seed=seed, weight_type=weight_type, tie_word_embeddings=is_tied)
    return describe("tiny", path, digest=f"{seed:064x}", size_bytes=0)


class Load(NamedTuple):
    logits: torch.Tensor
    num_packed: int
    num_parts: int


def load(home: Path, model: Model, limit: int = LIMIT) -> Load:
    cache, kernels = PackedCache(), native_kernels()
    with cache.loading(home, limit, model, kernels):
        decoder = load_model(model, kernels)
        num_packed, num_parts = kernels.panel_memory.num_packed, len(kernels.panel_memory.parts)
    cache.wait()
    return Load(SteppedModel(decoder, kernels).run("a", TOKENS), num_packed, num_parts)


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("weight_type", ["F32", "F16", "Q8_0", "Q4_0"])
def test_a_second_load_packs_nothing_and_computes_the_same(weight_type: str, is_tied: bool, tmp_path: Path) -> None:
    model = tiny(tmp_path, weight_type=weight_type, is_tied=is_tied)
    first, second = load(tmp_path / "home", model), load(tmp_path / "home", model)
    assert first.num_packed == first.num_parts == second.num_parts > 0
    assert second.num_packed == 0
    assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize("place", [0, 20, 60, 300, 4096, 9100, -1])
def test_a_damaged_file_is_packed_again(place: int, tmp_path: Path) -> None:
    model = tiny(tmp_path)
    first = load(tmp_path / "home", model)
    (path,) = packed_files(tmp_path / "home")
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    second, third = load(tmp_path / "home", model), load(tmp_path / "home", model)
    assert (second.num_packed, third.num_packed) == (first.num_packed, 0)
    assert torch.equal(second.logits, first.logits) and torch.equal(third.logits, first.logits)


@pytest.mark.parametrize("size", [0, 10, 100, -1])
def test_a_file_that_was_cut_off_is_packed_again(size: int, tmp_path: Path) -> None:
    model = tiny(tmp_path)
    first = load(tmp_path / "home", model)
    (path,) = packed_files(tmp_path / "home")
    path.write_bytes(path.read_bytes()[:size])
    second = load(tmp_path / "home", model)
    assert second.num_packed == first.num_packed
    assert torch.equal(second.logits, first.logits)


def test_weights_of_other_bytes_are_not_taken_for_the_same(tmp_path: Path) -> None:
    home, (one, other) = tmp_path / "home", (tiny(tmp_path, seed=seed) for seed in (1, 2))
    load(home, one)
    (path,) = packed_files(home)
    as_other = path.with_name(path.name.replace(one.digest, other.digest))
    path.rename(as_other)
    assert load(home, other).num_packed > 0  # The header names the model.
    expected = load(tmp_path / "elsewhere", other).logits
    confused = replace(other, digest=one.digest)
    load(home, one)
    assert torch.equal(load(home, confused).logits, expected)  # And the parts name what was packed.


def test_what_was_not_used_for_the_longest_time_is_removed_first(tmp_path: Path) -> None:
    home, models = tmp_path / "home", [tiny(tmp_path, seed=seed) for seed in (1, 2, 3)]
    load(home, models[0])
    (path,) = packed_files(home)
    limit = path.stat().st_size * 5 // 2
    load(home, models[1], limit)
    for number, file in enumerate(packed_files(home)):
        os.utime(file, (number, number))
    load(home, models[0], limit)  # It is used again, so the other one is older.
    load(home, models[2], limit)
    assert [file.name[:64] for file in packed_files(home)] == [models[0].digest, models[2].digest]
    assert sorted(file.name for file in packed_directory(home).iterdir() if file.suffix != ".packed") == [".lock"]


def test_a_model_above_the_limit_is_not_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    load(home, tiny(tmp_path, seed=1))
    load(home, tiny(tmp_path, seed=2), limit=1000)
    assert [file.name[:64] for file in packed_files(home)] == [f"{1:064x}"]


def test_nothing_is_kept_if_the_cache_is_off(tmp_path: Path) -> None:
    assert load(tmp_path / "home", tiny(tmp_path), limit=0).num_parts == 0
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_written_fails_no_load(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    assert load(home, tiny(tmp_path)).num_packed > 0


def test_a_full_disk_keeps_what_it_has_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    assert load(home, tiny(tmp_path)).num_packed > 0
    assert packed_files(home) == []


def test_writing_stops_when_another_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_cache, "WRITE_AFTER_S", 1000.0)
    cache, kernels, model = PackedCache(), native_kernels(), tiny(tmp_path)
    with cache.loading(tmp_path / "home", LIMIT, model, kernels):
        load_model(model, kernels)
    cache.stop()
    assert packed_files(tmp_path / "home") == []
    assert kernels.panel_memory.parts == []
