"""Tests of loading a tiny real model: the engine runs steps, the pages fit, and a worker that cannot start says why."""

import math
import struct
from pathlib import Path
from typing import Any

import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelError
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.model_editor import ModelEditor
from pagoda.models.store import ModelStore
from pagoda.process.memory import AvailableMemory
from pagoda.process.progress_file import read_progress
from pagoda.wire.load_progress import LoadProgress
from pagoda.wire.sampling import SamplingParams
from tests.fakes.native_code import give_native_code
from tests.fakes.tiny_model import write_tiny_gguf
from worker.errors import NotEnoughMemoryError, StartError, StepError, UnusableModelError
from worker.loading import start
from worker.loading.local_models import LocalModels
from worker.loading.start import load_on_demand, load_worker
from worker.settings import WorkerSettings
from worker.steps.engine_thread import Loaded, StepRunner
from worker.steps.step import NewSequence, ScheduledSequence, Step

PROMPT = tuple(b"the quick brown fox jumps over it")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return give_native_code(tmp_path_factory.mktemp("home"))


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    return path


def settings(home: Path, model_path: Path, **values: Any) -> WorkerSettings:
    defaults = {"home": home, "model": str(model_path), "kv_memory": "1MiB", "threads": 1}
    return WorkerSettings.model_validate(defaults | {"worker_id": "w1"} | values)


def load(home: Path, model_path: Path, **values: Any) -> Loaded:
    given = settings(home, model_path, **values)
    model = LocalModels(given).home_model
    assert model is not None
    return load_worker(given, model)


def first_token(engine: StepRunner, *chunk_sizes: int) -> int:
    new = NewSequence(
        sequence_id=1,
        attempt=1,
        token_ids=PROMPT,
        num_prompt_tokens=len(PROMPT),
        sampling=SamplingParams(temperature=1.0, seed=5),
        sample_index=0,
    )
    start, pages = 0, (4, 2, 0)
    for step_id, size in enumerate(chunk_sizes, start=1):
        sample = start + size == len(PROMPT)
        scheduled = ScheduledSequence(
            1, start, start, size, new_page_ids=pages if start == 0 else (), max_new_tokens=int(sample)
        )
        step = Step(step_id=step_id, new_sequences=(new,) if start == 0 else (), scheduled=(scheduled,))
        result = engine.finish_step(engine.begin_step(step))
        start += size
    [sampled] = result.sampled
    engine.reset()
    return sampled.token_ids[0]


def test_what_was_loaded_is_described(home: Path, model_path: Path) -> None:
    model = load(home, model_path, max_model_len=100, max_step_tokens=64).model
    assert (model.name, model.page_size, model.max_model_len, model.max_step_tokens) == ("tiny", 16, 100, 64)
    assert len(model.digest) == 64
    assert 0 < model.kv_bytes <= 1024 * 1024
    assert model.kv_bytes % model.num_pages == 0
    assert model.weights_bytes > 0


@pytest.mark.parametrize("numerics", ["integer", "float32"])
def test_a_real_model_computes_the_same_token_whole_and_in_chunks(home: Path, model_path: Path, numerics: str) -> None:
    worker = load(home, model_path, numerics=numerics)
    assert numerics in worker.model.numerics_id
    assert (
        first_token(worker.engine, 33) == first_token(worker.engine, 16, 17) == first_token(worker.engine, 5, 20, 7, 1)
    )


def test_pages_whose_memory_was_returned_are_used_again(home: Path, model_path: Path) -> None:
    worker = load(home, model_path)
    token = first_token(worker.engine, 33)
    step = Step(step_id=1, idle_pages=(range(worker.model.num_pages),))
    assert worker.engine.finish_step(worker.engine.begin_step(step)).sampled == ()
    assert first_token(worker.engine, 33) == token
    with pytest.raises(
        StepError, match=f"idle page {worker.model.num_pages}; there are {worker.model.num_pages} pages"
    ):
        worker.engine.begin_step(Step(step_id=2, idle_pages=(range(worker.model.num_pages + 1),)))


@pytest.mark.parametrize("damage", [math.nan, math.inf])
@pytest.mark.parametrize("numerics", ["integer", "float32"])
def test_weights_that_give_no_numbers_are_refused(home: Path, model_path: Path, numerics: str, damage: float) -> None:
    with GGUFFile(model_path) as file:
        offset = file.tensors["blk.0.ffn_down.weight"].offset
    with model_path.open("r+b") as opened:
        opened.seek(offset)
        opened.write(struct.pack("<f", damage))
    with pytest.raises(UnusableModelError, match=r"tiny\.gguf: the model computes logits that are not finite numbers"):
        load(home, model_path, numerics=numerics)


def test_what_is_loaded_on_demand_computes_the_same(home: Path, tmp_path: Path, model_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=3)
    given = settings(home, model_path, model=f"{model_path},{other}", start_empty=True, max_model_len=10**6)
    models = LocalModels(given)
    assert models.home_model is None
    store = models.loadable_models()
    assert [(each.name, each.max_model_len) for each in store.models] == [("other", 512), ("tiny", 512)]
    assert store.models[0].digest != store.models[1].digest
    assert store.available_bytes is not None and store.available_bytes > store.models[0].needed_bytes
    on_demand = load_on_demand(given, models, "other", store.models[0].digest)
    assert first_token(on_demand.engine, 33) == first_token(load(home, other).engine, 33)


def test_the_progress_is_in_the_store_and_in_the_file_while_it_loads(tmp_path: Path, model_path: Path) -> None:
    path = tmp_path / "worker.progress"
    models = LocalModels(settings(tmp_path / "home", model_path, progress_file=path))
    assert models.home_model is not None and models.load_progress is None
    with models.loading(models.home_model) as record:
        record(7, 10)
        assert models.load_progress == LoadProgress(completed_bytes=7, total_bytes=10)
        record(10, 10)
    assert models.load_progress is None
    assert read_progress(path) == (10, 10)


def test_what_was_loaded_counts_with_its_measured_weights(home: Path, model_path: Path) -> None:
    given = settings(home, model_path, start_empty=True)
    models = LocalModels(given)
    (before,) = models.loadable_models().models
    loaded = load_on_demand(given, models, "tiny", before.digest)
    (after,) = models.loadable_models().models
    need = models.memory_need(models.find("tiny"))
    assert need.weights_bytes == loaded.model.weights_bytes
    assert after.needed_bytes == need.total_bytes


def test_a_model_whose_files_have_changed_is_not_loaded(home: Path, model_path: Path) -> None:
    given = settings(home, model_path)
    models = LocalModels(given)
    digest = models.loadable_models().models[0].digest
    write_tiny_gguf(model_path, seed=1)
    with pytest.raises(StartError, match="have changed"):
        load_on_demand(given, models, "tiny", digest)
    assert models.refresh() and models.loadable_models().models[0].digest != digest


def test_the_store_is_looked_at_again(tmp_path: Path, model_path: Path) -> None:
    own_home = tmp_path / "home"
    models = LocalModels(settings(own_home, model_path))
    store = ModelStore(own_home)
    editor = ModelEditor(store, BlobStore(own_home))
    models.refresh()
    assert not models.refresh()
    editor.copy_model(store.get(str(model_path)), "copy")
    assert models.refresh()
    assert [each.name for each in models.loadable_models().models] == ["copy:latest", "tiny"]
    editor.delete("copy")
    assert models.refresh()
    assert [each.name for each in models.loadable_models().models] == ["tiny"]


def test_int8_keys_and_values_have_an_id_and_more_pages(home: Path, model_path: Path) -> None:
    int16, int8 = (load(home, model_path, kv_dtype=name).model for name in ("int16", "int8"))
    assert "kv8" in int8.numerics_id
    assert int8.num_pages > 1.5 * int16.num_pages


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"kv_memory": "100B"}, "cannot hold a single page of 16 tokens"),
        ({"max_model_len": 10**6}, "--max-model-len must be at most"),
    ],
)
def test_what_cannot_work_is_refused_with_both_numbers(
    home: Path, model_path: Path, values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(StartError, match=reason):
        load(home, model_path, **values)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    home: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "measure_available", lambda device: AvailableMemory(50_000_000, 60_000_000))
    with pytest.raises(
        NotEnoughMemoryError, match=r"tiny needs about .* 50 MB are available within this container's limit"
    ):
        load(home, model_path)
    assert load(home, model_path, check_memory=False).model.name == "tiny"


def test_an_unknown_model_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load(home, tmp_path / "nowhere.gguf")


def test_pages_for_less_than_one_full_sequence_are_a_warning(
    home: Path, model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = load(home, model_path, kv_memory="32KiB").model
    assert few.num_pages * few.page_size < few.max_model_len
    assert any("cannot hold a sequence of full length" in message for message in caplog.messages)


def test_scheduler_addresses_are_a_list(tmp_path: Path) -> None:
    settings = WorkerSettings(home=tmp_path, scheduler="unix:/a.sock, 127.0.0.1:5")
    assert settings.scheduler_addresses == ("unix:/a.sock", "127.0.0.1:5")
    assert WorkerSettings(home=Path("/h")).scheduler_addresses == ("unix:/h/run/scheduler.sock",)
    with pytest.raises(ValueError, match="name at least one scheduler"):
        WorkerSettings(home=tmp_path, scheduler=" , ")
