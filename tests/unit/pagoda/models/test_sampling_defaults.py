"""Sampling defaults: the first source that names a parameter wins, and invalid values are ignored."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.blobs import BlobStore
from pagoda.models.catalogue import CATALOGUE, DEFAULT_MODEL, CatalogueEntry, find_entry
from pagoda.models.model import Model, Recommendation
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama_objects import shown
from pagoda.models.parameters import SAMPLING_PARAMETERS, checked_parameter
from pagoda.models.pull import version_of
from pagoda.models.sampling_defaults import (
    OLLAMA,
    OPENAI_CHAT,
    OPENAI_COMPLETIONS,
    APIValues,
    Parameter,
    SamplingPolicy,
    Source,
)
from pagoda.models.sources.remote import RemoteFile, RemoteModel
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.sources.source import Fetched
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_source
from tests.fakes.ollama_store import FakeOllamaStore
from tests.fakes.tiny_checkpoint import write_tiny_checkpoint
from tests.fakes.tiny_model import write_tiny_gguf

APIS = {"chat": OPENAI_CHAT, "completions": OPENAI_COMPLETIONS, "ollama": OLLAMA}
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 100),
    "min_p": st.floats(0, 1),
    "repeat_penalty": st.floats(0.5, 2),
    "repeat_last_n": st.integers(-1, 100),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "seed": st.integers(-1, 2**63),
    "num_predict": st.integers(1, 1000) | st.sampled_from([-1, -2]),
    "num_ctx": st.integers(1, 1000),
    "stop": st.lists(st.text(min_size=1, max_size=3), max_size=3),
}
SOME_VALUES = st.fixed_dictionaries({}, optional=dict(VALUES))
WRONG_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [math.nan, math.inf, -math.inf, -3, -0.5, 10**400, 1e300, "0.5", True, [], {}, [""], [1], None, 2**70, -(2**70)]
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    directory = tmp_path_factory.mktemp("store")
    return ModelStore(directory).get(str(write_tiny_gguf(directory / "tiny.gguf")))


def entry(digest: str, parameters: Mapping[str, Any]) -> CatalogueEntry:
    assert CATALOGUE[0].wheel is not None
    return replace(CATALOGUE[0], source=replace(CATALOGUE[0].wheel, sha256=digest), parameters=parameters)


def test_every_parameter_is_tried() -> None:
    assert set(VALUES) == set(SAMPLING_PARAMETERS)


@given(
    asked=SOME_VALUES,
    modelfile=SOME_VALUES,
    catalogue=SOME_VALUES,
    files=SOME_VALUES,
    server=st.none() | st.integers(1, 1000),
    api_name=st.sampled_from(sorted(APIS)),
    mode=st.sampled_from(["model", "neutral"]),
)
def test_the_first_source_that_names_a_parameter_wins(
    model: Model,
    asked: Mapping[str, Any],
    modelfile: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    files: Mapping[str, Any],
    server: int | None,
    api_name: str,
    mode: Any,
) -> None:
    api = APIS[api_name]
    described = replace(model, recommended=Recommendation(parameters=files))
    policy = SamplingPolicy(mode=mode, max_tokens=server, catalogue=(entry(model.digest, catalogue),))
    defaults = policy.defaults_of(described, ModelSettings(parameters=modelfile))
    chosen = defaults.choose(asked, api)
    recommended = [(Source.CATALOGUE, catalogue), (Source.GGUF, files)] if mode == "model" else []
    for name in SAMPLING_PARAMETERS:
        sources: list[tuple[Source, Mapping[str, Any]]] = [(Source.REQUEST, asked), (Source.MODELFILE, modelfile)]
        if name == "num_predict":
            sources.append((Source.SERVER, {} if server is None else {name: server}))
            sources.append((Source.API, {} if api.max_tokens is None else {name: api.max_tokens}))
        sources += [*recommended, (Source.API, api.parameters)]
        expected = next((Parameter(named[name], source) for source, named in sources if name in named), None)
        assert chosen.get(name) == expected
    assert not defaults.ignored


@given(asked=SOME_VALUES, modelfile=SOME_VALUES)
def test_both_dialects_agree_on_all_that_somebody_named(
    model: Model, asked: Mapping[str, Any], modelfile: Mapping[str, Any]
) -> None:
    defaults = SamplingPolicy().defaults_of(model, ModelSettings(parameters=modelfile))
    chosen = [defaults.choose(asked, api) for api in APIS.values()]
    for name in {**asked, **modelfile}:
        assert chosen[0][name] == chosen[1][name] == chosen[2][name]


@given(asked=st.fixed_dictionaries({name: st.none() for name in VALUES}), modelfile=SOME_VALUES)
def test_null_is_left_open(model: Model, asked: Mapping[str, Any], modelfile: Mapping[str, Any]) -> None:
    defaults = SamplingPolicy().defaults_of(model, ModelSettings(parameters=modelfile))
    assert defaults.choose(asked, OLLAMA) == defaults.choose({}, OLLAMA)


@given(name=st.sampled_from(SAMPLING_PARAMETERS), value=WRONG_VALUES, files=SOME_VALUES)
def test_a_wrong_value_in_a_models_files_is_told_and_the_next_source_is_asked(
    model: Model, name: str, value: Any, files: Mapping[str, Any]
) -> None:
    described = replace(model, recommended=Recommendation(parameters=files))
    defaults = SamplingPolicy(catalogue=()).defaults_of(described, ModelSettings(parameters={name: value}))
    try:
        accepted = [Parameter(checked_parameter(name, value), Source.MODELFILE)]
    except ValueError as error:
        assert defaults.ignored == (f"modelfile: {error}",) and len(str(error)) < 250
        accepted = [Parameter(files[name], Source.GGUF)] if name in files else []
    assert [each for each in [defaults.parameters.get(name)] if each] == accepted


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("temperature", -1, "temperature must be between 0 and 1000 (got -1.0)"),
        ("temperature", "hot", "temperature must be a number (got 'hot')"),
        ("top_p", 3, "top_p must be above 0 and at most 1 (got 3.0)"),
        ("top_k", 2.5, "top_k must be a whole number (got 2.5)"),
        ("top_k", 2**31, "top_k must be at most 2147483647 (got 2147483648)"),
        ("repeat_penalty", 0, "repeat_penalty must be above 0 and at most 100 (got 0.0)"),
        ("num_predict", 0, "num_predict must be at least 1 (got 0)"),
        ("num_ctx", -1, "num_ctx must be at least 1 (got -1)"),
        ("repeat_last_n", -2, "repeat_last_n must be -1 (the whole context), 0 (off) or more (got -2)"),
        ("presence_penalty", math.nan, "presence_penalty must be a number (got nan)"),
        ("min_p", True, "min_p must be a number (got True)"),
        ("num_ctx", 10**400, "num_ctx must be a number (got a whole number with too many digits)"),
        ("stop", [""], "stop must be strings of 1 to 1024 characters (got [''])"),
    ],
)
def test_wrong_values_have_a_sentence(name: str, value: Any, problem: str) -> None:
    with pytest.raises(ValueError) as error:
        checked_parameter(name, value)
    assert str(error.value) == problem


# Sources


@pytest.mark.parametrize(
    ("content", "parameters"),
    [
        (
            {
                "do_sample": True,
                "temperature": 0.6,
                "top_k": 20,
                "top_p": 0.95,
                "min_p": 0.1,
                "repetition_penalty": 1.05,
                "presence_penalty": 1.5,
                "frequency_penalty": 0.5,
                "max_new_tokens": 2048,
            },
            {
                "temperature": 0.6,
                "top_k": 20,
                "top_p": 0.95,
                "min_p": 0.1,
                "repeat_penalty": 1.05,
                "presence_penalty": 1.5,
                "frequency_penalty": 0.5,
                "num_predict": 2048,
            },
        ),
        # Values equal to transformers' former defaults were written on purpose, because it does not write defaults.
        ({"temperature": 1.0, "top_k": 50}, {"temperature": 1.0, "top_k": 50}),
        ({"temperature": None, "top_k": 64.0, "max_length": 20}, {"top_k": 64}),
        ({"temperature": "0.7", "top_p": 3, "top_k": [1], "min_p": float("nan")}, {}),
        ({"bos_token_id": 1}, {}),
    ],
)
def test_generation_config(tmp_path: Path, content: dict[str, Any], parameters: dict[str, Any]) -> None:
    model = ModelStore(tmp_path).get(str(write_tiny_checkpoint(tmp_path / "checkpoint", content)))
    defaults = SamplingPolicy().defaults_of(model)
    assert {name: each.value for name, each in defaults.parameters.items()} == parameters
    assert {each.source for each in defaults.parameters.values()} <= {Source.GENERATION_CONFIG}


def test_gguf_sampling(tmp_path: Path) -> None:
    written: dict[str, float | str | list[str]] = {
        "temp": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.05,
        "penalty_repeat": 1.1,
        "penalty_last_n": 128,
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "xtc_probability": 0.0,
        "xtc_threshold": 0.1,
    }
    model = ModelStore(tmp_path).get(str(write_tiny_gguf(tmp_path / "tiny.gguf", sampling=written)))
    defaults = SamplingPolicy().defaults_of(model)
    assert {name: each.value for name, each in defaults.parameters.items()} == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "repeat_last_n": 128,
    }
    assert not defaults.ignored


def test_what_a_file_asks_for_and_nothing_does_is_told(tmp_path: Path) -> None:
    gguf: dict[str, float | str | list[str]] = {"mirostat": 2, "mirostat_tau": 4.5, "sequence": "top_k;xtc;temp"}
    models = ModelStore(tmp_path)
    told = SamplingPolicy().defaults_of(models.get(str(write_tiny_gguf(tmp_path / "tiny.gguf", sampling=gguf)))).ignored
    assert told == (
        "general.sampling.mirostat = 2 is not supported",
        "general.sampling.mirostat_tau = 4.5 is not supported",
        "general.sampling.sequence = 'top_k;xtc;temp' is not supported",
    )
    config = {"num_beams": 4, "typical_p": 1.0, "no_repeat_ngram_size": 3, "suppress_tokens": None}
    checkpoint = models.get(str(write_tiny_checkpoint(tmp_path / "checkpoint", config)))
    assert SamplingPolicy().defaults_of(checkpoint).ignored == (
        "no_repeat_ngram_size = 3 is not supported",
        "num_beams = 4 is not supported",
    )
    assert SamplingPolicy(mode="neutral").defaults_of(checkpoint).ignored == ()


def test_a_change_of_generation_config_is_seen(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "checkpoint", {"temperature": 0.6})
    store = ModelStore(tmp_path)
    store.get(str(directory))
    (directory / "generation_config.json").write_text(json.dumps({"temperature": 0.75, "top_k": 1}))
    assert SamplingPolicy().defaults_of(store.get(str(directory))).parameters["temperature"].value == 0.75


def test_the_catalogue_is_found_by_the_weights_whatever_their_name(model: Model) -> None:
    policy = SamplingPolicy(catalogue=(entry(model.digest, {"top_k": 3}),))
    assert policy.defaults_of(replace(model, name="mine")).parameters == {"top_k": Parameter(3, Source.CATALOGUE)}
    other = replace(model, name=CATALOGUE[0].name, digest="0" * 64)
    assert policy.defaults_of(other).parameters == {}


def test_the_catalogue_is_found_by_the_place_that_the_weights_came_from(tmp_path: Path) -> None:
    """A copy, and a model made from it, have the same weights. A model made from a file under the same name has others."""
    policy = SamplingPolicy(catalogue=CATALOGUE)
    store = ModelStore(tmp_path / "home")
    editor = ModelEditor(store, BlobStore(tmp_path / "home"))
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    remote = RemoteModel(
        name="qwen3:0.6b",
        source="registry.ollama.ai/library/qwen3:0.6b",
        version="1",
        files=(RemoteFile(path="model.gguf", url="", size_bytes=file.stat().st_size),),
        root="model.gguf",
    )
    editor.put_fetched("qwen3:0.6b", remote, Fetched(files={"model.gguf": file}))
    editor.copy("qwen3:0.6b", "copy")
    own = ModelSettings(parameters={"top_k": 5})
    editor.create_from_model("derived", store.get("copy"), own, lambda status: None)
    editor.delete("qwen3:0.6b")

    recommended = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    from_catalogue = {name: Parameter(value, Source.CATALOGUE) for name, value in recommended.items()}
    assert policy.defaults_of(store.get("copy")).parameters == from_catalogue
    assert policy.defaults_of(store.get("derived")).parameters == {
        **from_catalogue,
        "top_k": Parameter(5, Source.MODELFILE),
    }
    assert replace(policy, mode="neutral").defaults_of(store.get("copy")).parameters == {}
    editor.create_from_files("qwen3:0.6b", {"any.gguf": file}, ModelSettings(), lambda status: None)
    assert policy.defaults_of(store.get("qwen3:0.6b")).parameters == {}


def test_the_catalogue_is_found_by_the_name_in_ollamas_store(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    ollama = FakeOllamaStore(tmp_path / "ollama")
    ollama.add("qwen3:latest", file)
    ollama.add("mine:latest", file)
    store = ModelStore(tmp_path / "home", sources=SourceSettings(ollama_stores=(tmp_path / "ollama",)))
    editor = ModelEditor(store, BlobStore(tmp_path / "home"))
    editor.copy("qwen3", "copy")
    recommended = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    for name, expected in (("qwen3", recommended), ("copy", recommended), ("mine", {})):
        found = SamplingPolicy().defaults_of(store.get(name)).parameters
        assert found == {name: Parameter(value, Source.CATALOGUE) for name, value in expected.items()}


def test_a_copy_does_not_follow_its_source(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "home")
    editor = ModelEditor(store, BlobStore(tmp_path / "home"))
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    remote = RemoteModel(name="a/b", source="hf.co/a/b@1", version="1", files=(), root="b.gguf")
    editor.put_fetched("a/b", remote, Fetched(files={"b.gguf": file}, stays_at=file))
    editor.copy("a/b", "copy")
    assert [version_of(store.get(name)) for name in ("a/b", "copy")] == ["1", None]
    assert [read_source(store.get(name)) for name in ("a/b", "copy")] == ["hf.co/a/b@1"] * 2


def test_the_catalogues_own_values_make_sense() -> None:
    for each in CATALOGUE:
        assert {name: checked_parameter(name, value) for name, value in each.parameters.items()} == each.parameters
    smollm2 = find_entry(DEFAULT_MODEL)
    assert smollm2 is not None
    assert {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.05}.items() <= smollm2.parameters.items()


def test_the_neutral_values_are_those_that_the_apis_document() -> None:
    def values(api: APIValues) -> tuple[Any, ...]:
        return tuple(api.parameters[name] for name in ("temperature", "top_k", "top_p", "min_p", "repeat_last_n"))

    assert values(OPENAI_CHAT) == values(OPENAI_COMPLETIONS) == (1.0, 0, 1.0, 0.0, -1)
    assert values(OLLAMA) == (0.8, 40, 0.9, 0.0, 64)
    assert (OPENAI_CHAT.max_tokens, OPENAI_COMPLETIONS.max_tokens, OLLAMA.max_tokens) == (None, 16, None)


def test_show_says_what_applies_and_from_where(model: Model) -> None:
    policy = SamplingPolicy(max_tokens=99, catalogue=(entry(model.digest, {"temperature": 0.25, "top_p": 0.5}),))
    described = shown(model, policy, verbose=False)
    assert described["parameters"].split() == ["temperature", "0.25", "top_p", "0.5"]
    assert described["sampling_defaults"]["temperature"] == {"value": 0.25, "source": "catalogue"}
    assert described["sampling_defaults"]["num_predict"] == {"value": 99, "source": "server"}
    assert described["sampling_defaults"]["top_k"] == {"value": 40, "source": "api"}
    assert "PARAMETER" not in described["modelfile"]
    neutral = shown(model, replace(policy, mode="neutral"), verbose=False)
    assert neutral["parameters"] == ""
    assert neutral["sampling_defaults"]["temperature"] == {"value": 0.8, "source": "api"}
