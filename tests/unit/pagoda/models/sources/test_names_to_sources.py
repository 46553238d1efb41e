"""Tests of the source that a name is pulled from: the catalogue's, the hub, Ollama's registry, or none for a model that is here."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.pull import ModelPuller
from pagoda.models.sampling_defaults import Parameter, SamplingPolicy, Source
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_source
from tests.fakes.hub_server import FakeHub
from tests.fakes.hub_user import HubUser
from tests.fakes.registry_server import FakeRegistry, fake_registry

SMOLLM2 = "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF"


@dataclass(frozen=True, kw_only=True)
class World:
    """A hub, Ollama's registry, and a user of both with the real catalogue."""

    hub: FakeHub
    registry: FakeRegistry
    store: ModelStore
    editor: ModelEditor

    def pull(self, name: str) -> Model:
        return ModelPuller(self.store, self.editor).pull(name, lambda progress: None)

    def ensure(self, name: str) -> Model:
        return ModelPuller(self.store, self.editor).ensure(name, lambda progress: None)

    @property
    def num_requests(self) -> int:
        return len(self.hub.seen) + len(self.registry.asked)


@pytest.fixture
def world(hub: FakeHub, user: HubUser) -> Iterator[World]:
    with fake_registry() as registry:
        store = ModelStore(user.home, sources=replace(user.settings, registry_url=registry.url))
        yield World(hub=hub, registry=registry, store=store, editor=ModelEditor(store, BlobStore(user.home)))


@pytest.mark.parametrize(
    "name", ["qwen3", "Qwen3:8B", "library/qwen3:8b-q4_K_M", "https://ollama.com/library/qwen3", "ollama.com/qwen3:8b"]
)
def test_an_alias_is_the_same_model(world: World, gguf: bytes, name: str) -> None:
    world.registry.publish("library/qwen3:8b", gguf)
    model = world.pull(name)
    assert model.name == "qwen3:8b"
    num_requests = world.num_requests
    assert world.ensure("qwen3") == world.ensure("qwen3:8b") == model
    assert world.num_requests == num_requests


def test_the_catalogue_names_another_source(world: World, gguf: bytes, other_gguf: bytes) -> None:
    world.hub.add(SMOLLM2, {"smollm2-360m-instruct-q8_0.gguf": gguf, "smollm2-360m-instruct-f16.gguf": other_gguf})
    model = world.pull("SmolLM2:360M")
    assert (model.name, model.path.name) == ("smollm2:360m", "smollm2-360m-instruct-q8_0.gguf")
    assert world.registry.asked == []
    recommended = {"temperature": Parameter(0.2, Source.CATALOGUE), "top_p": Parameter(0.9, Source.CATALOGUE)}
    assert SamplingPolicy().defaults_of(model).parameters == recommended
    other = world.pull(f"hf.co/{SMOLLM2}:F16")
    assert (other.name, SamplingPolicy().defaults_of(other).parameters) == (f"{SMOLLM2}:F16", recommended)


def test_the_registrys_parameters_come_before_the_catalogues(world: World, gguf: bytes) -> None:
    world.registry.publish("library/qwen3:0.6b", gguf, layers=[("params", b'{"temperature": 0.65, "min_p": 0.1}')])
    assert SamplingPolicy().defaults_of(world.pull("qwen3:0.6b")).parameters == {
        "temperature": Parameter(0.65, Source.MODELFILE),
        "min_p": Parameter(0.1, Source.MODELFILE),
        "top_p": Parameter(0.95, Source.CATALOGUE),
        "top_k": Parameter(20, Source.CATALOGUE),
    }


def test_a_name_that_the_catalogue_lacks_is_one_of_the_library(world: World, gguf: bytes) -> None:
    world.registry.publish("library/new-model:latest", gguf)
    assert world.pull("new-model").name == "new-model:latest"
    assert world.hub.seen == []


def test_org_and_repo_mean_the_hub_and_then_the_registry(world: World, gguf: bytes, other_gguf: bytes) -> None:
    world.hub.add("Some/One", {"one-Q8_0.gguf": gguf})
    world.registry.publish("some/one:latest", other_gguf)
    world.registry.publish("some/two:1b", other_gguf)
    one, two = world.pull("Some/One"), world.pull("some/two:1b")
    assert [read_source(one), read_source(two)] == [
        f"hf.co/Some/One@{world.hub.repos['Some/One'].revisions['main']}",
        "registry.ollama.ai/some/two:1b",
    ]
    assert two.name == "some/two:1b"
    assert world.ensure("Some/Two:1B") == two
    explicit = world.pull("https://ollama.com/some/one")
    assert (explicit.name, explicit.digest) == ("registry.ollama.ai/some/one:latest", two.digest)
    assert [model.digest for model in (world.ensure("some/one"), world.ensure("hf:some/one"))] == [one.digest] * 2


def test_an_update_does_not_change_the_publisher(world: World, gguf: bytes, other_gguf: bytes) -> None:
    world.registry.publish("some/one:latest", gguf)
    first = world.pull("some/one")
    world.hub.add("some/one", {"one-Q8_0.gguf": other_gguf})
    assert world.pull("some/one") == first
    assert world.pull("hf.co/some/one").digest != first.digest
    del world.hub.repos["some/one"]
    world.registry.publish("some/one:latest", gguf)
    assert str(read_source(world.pull("some/one"))).startswith("hf.co/some/one@")


def test_an_address_of_the_hub_is_asked_for_nowhere_else(world: World, gguf: bytes) -> None:
    world.registry.publish("some/two:latest", gguf)
    with pytest.raises(ModelNotFoundError, match=r"hf\.co/some/two does not exist .if it is private"):
        world.pull("hf.co/some/two")
    assert world.registry.asked == []


def test_a_repository_without_the_quantization_is_the_last_place_to_ask(world: World, gguf: bytes) -> None:
    world.hub.add("some/one", {"one-Q4_0.gguf": gguf, "one-Q8_0.gguf": gguf})
    world.registry.publish("some/one:q5_0", gguf)
    message = r"^hf\.co/some/one has no GGUF file 'Q5_0' \(available: Q4_0, Q8_0\)$"
    with pytest.raises(ModelNotFoundError, match=message):
        world.pull("some/one:Q5_0")
    assert world.registry.asked == []


def test_a_name_that_the_hub_cannot_have_is_one_of_the_registry(world: World, gguf: bytes) -> None:
    world.registry.publish("some/one--two:latest", gguf)
    assert str(read_source(world.pull("some/one--two"))) == "registry.ollama.ai/some/one--two:latest"
    with pytest.raises(ModelNotFoundError, match=r"^hf\.co/some/one--two does not exist: Cannot have -- or \.\. in"):
        world.pull("hf.co/some/one--two@v1")
    assert world.hub.seen == []


def test_a_name_that_is_nowhere_says_so_for_both_places(world: World) -> None:
    with pytest.raises(ModelNotFoundError, match=r"hf\.co/some/three does not exist.*; and .*some/three"):
        world.pull("some/three")


@pytest.mark.parametrize(
    "page",
    [
        "https://huggingface.co/o/R/resolve/main/more/R-Q8_0.gguf?download=true",
        "huggingface.co/o/R/blob/main/more/R-Q8_0.gguf",
    ],
)
def test_a_page_of_a_file_is_that_file(world: World, gguf: bytes, other_gguf: bytes, page: str) -> None:
    world.hub.add("o/R", {"R-Q4_K_M.gguf": gguf, "more/R-Q8_0.gguf": other_gguf})
    model = world.pull(page)
    assert (model.name, model.path.name) == ("o/R:R-Q8_0.gguf", "R-Q8_0.gguf")
    num_requests = world.num_requests
    assert world.ensure("o/r:r-q8_0.gguf") == world.ensure(page) == model
    assert world.num_requests == num_requests


def test_a_missing_file_is_not_asked_for(world: World) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no such file or directory: 'some/file\.gguf'"):
        world.ensure("some/file.gguf")
    assert world.num_requests == 0


@pytest.mark.parametrize("name", ["my-model", "user/model:tag", "qwen3"])
def test_a_model_of_ones_own_needs_no_source(world: World, gguf: bytes, tmp_path: Path, name: str) -> None:
    (tmp_path / "own.gguf").write_bytes(gguf)
    world.editor.create_from_files(name, {"own.gguf": tmp_path / "own.gguf"}, ModelSettings(), lambda status: None)
    model = world.ensure(name.upper())
    assert (model.name, world.num_requests) == (name if ":" in name else f"{name}:latest", 0)
    assert SamplingPolicy().defaults_of(model).parameters == {}
