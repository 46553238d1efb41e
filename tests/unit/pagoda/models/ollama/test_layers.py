"""Tests of the layers of Ollama's models: settings, unsupported layers, and hostile content."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.errors import ModelFormatError
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama.layers import (
    MAX_TEXT_BYTES,
    MAX_TEXT_LAYERS,
    MAX_TEXTS_BYTES,
    OllamaModel,
    parse_parameters,
    read_model,
)
from pagoda.models.ollama.manifest import LAYER_PREFIX, Layer, parse_manifest

GO_TEMPLATE = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ .Prompt }}"


def model_of(
    *layers: tuple[str, bytes], config: Mapping[str, Any] | None = None, sizes: Mapping[str, int] | None = None
) -> OllamaModel:
    """Return the model of a manifest with these layers of (kind, content). `sizes` are announced in place of the real ones."""
    blobs = {hashlib.sha256(content).hexdigest(): content for _, content in layers}
    about = json.dumps(config or {}).encode()
    blobs[hashlib.sha256(about).hexdigest()] = about

    def entry(media_type: str, content: bytes) -> dict[str, Any]:
        size = (sizes or {}).get(media_type.removeprefix(LAYER_PREFIX), len(content))
        return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": size}

    manifest = {
        "schemaVersion": 2,
        "config": entry("application/vnd.docker.container.image.v1+json", about),
        "layers": [entry(LAYER_PREFIX + kind, content) for kind, content in layers],
    }

    def read(layer: Layer) -> bytes:
        assert layer.kind != "model", "the weights are not read"
        return blobs[layer.sha256]

    return read_model(parse_manifest(json.dumps(manifest).encode()), read)


GGUF = ("model", b"GGUF")


def test_all_settings_are_read() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]
    model = model_of(
        GGUF,
        ("template", GO_TEMPLATE.encode()),
        ("system", "Be brief. ✓".encode()),
        ("params", b'{"temperature": 0.6, "top_k": 20, "stop": ["<|im_end|>", "<|endoftext|>"], "num_ctx": 4096}'),
        ("messages", json.dumps(messages).encode()),
        ("license", b"Apache"),
        ("license", b"MIT"),
        config={"model_family": "qwen3", "file_type": "Q4_K_M", "renderer": "qwen3-coder", "parser": "qwen3-coder"},
    )
    assert model.settings == ModelSettings(
        template=GO_TEMPLATE,
        system="Be brief. ✓",
        parameters={"temperature": 0.6, "top_k": 20, "stop": ["<|im_end|>", "<|endoftext|>"], "num_ctx": 4096},
        messages=messages,
        license=["Apache", "MIT"],
    )
    assert model.warnings == ()
    assert model.weights.sha256 == hashlib.sha256(b"GGUF").hexdigest()
    assert (model.config.model_family, model.config.file_type) == ("qwen3", "Q4_K_M")
    assert (model.config.renderer, model.config.parser) == ("qwen3-coder", "qwen3-coder")


def test_weights_alone_are_a_model() -> None:
    assert model_of(GGUF).settings.to_json() == {}


def test_an_old_manifest_calls_the_template_prompt() -> None:
    assert model_of(GGUF, ("prompt", b"{{ .Prompt }}")).settings.template == "{{ .Prompt }}"


def test_text_that_is_not_utf_8_is_kept_as_far_as_possible() -> None:
    assert model_of(GGUF, ("license", "© X".encode("latin-1"))).settings.license == ["\ufffd X"]


@pytest.mark.parametrize(
    ("content", "usable", "warnings"),
    [
        # Parameters of Ollama's runner do not change answers.
        ({"num_gpu": 1, "num_keep": 24, "use_mmap": True, "num_thread": 8, "mirostat": 0}, {}, []),
        ({"stop": "a", "seed": 7, "top_k": 40.0}, {"stop": ["a"], "seed": 7, "top_k": 40}, []),
        ({"mirostat": 2, "temperature": 1}, {"temperature": 1.0}, ["mirostat 2 is not supported (allowed: 0)"]),
        ({"temperature": "hot"}, {}, ["temperature must be a number (got 'hot')"]),
        ({"top_p": 7}, {}, ["top_p must be above 0 and at most 1 (got 7.0)"]),
        ({"frobnicate": [1]}, {}, ["'frobnicate' is unknown"]),
        ({"temperature": None}, {}, []),
        ({"stop": ["a\ud800"]}, {"stop": ["a\ufffd"]}, []),
        (None, {}, []),
    ],
    ids=range(9),
)
def test_parameters(content: object, usable: dict[str, Any], warnings: list[str]) -> None:
    found, ignored = parse_parameters(json.dumps(content).encode())
    assert found == usable
    assert ignored == [f"a parameter of the model is not used: {warning}" for warning in warnings]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("projector", "vision part"), ("draft", "draft model"), ("embed", "embeddings"), ("holograms", "'holograms'")],
)
def test_what_is_not_used_is_said_once(kind: str, said: str) -> None:
    (warning,) = model_of(GGUF, (kind, b"1"), (kind, b"2")).warnings
    assert said in warning
    assert "not" in warning


@pytest.mark.parametrize(
    ("layers", "config", "reason"),
    [
        ([GGUF, ("adapter", b"1")], {}, "LoRA adapter"),
        ([("tensor", b"1"), ("json", b"2")], {}, "MLX"),
        (
            [],
            {"remote_host": "https://ollama.com:443", "remote_model": "gpt-oss:120b"},
            "runs at https://ollama.com:443",
        ),
        ([("license", b"1")], {}, "has no weights"),
        ([GGUF, ("model", b"GGUF2")], {}, "2 layers"),
        ([GGUF, ("messages", b'[{"role": "robot", "content": "x"}]')], {}, "roles system, user, assistant"),
        ([GGUF, ("messages", b"{")], {}, "messages layer is damaged: it is not JSON"),
        ([GGUF, ("params", b"[]")], {}, "params layer is damaged: it is not a JSON object"),
        ([GGUF, ("params", b"\xff")], {}, "params layer is damaged: it is not JSON"),
    ],
    ids=["adapter", "mlx", "cloud", "no weights", "two weights", "role", "not JSON", "not an object", "not text"],
)
def test_a_model_that_cannot_be_used(layers: list[tuple[str, bytes]], config: dict[str, str], reason: str) -> None:
    with pytest.raises(ModelFormatError, match=reason):
        model_of(*layers, config=config)


def test_a_config_that_is_not_an_object_is_refused() -> None:
    data = b"[]"
    config = {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": 2}
    manifest = parse_manifest(json.dumps({"layers": [], "config": config}).encode())
    with pytest.raises(ModelFormatError, match="config layer is damaged"):
        read_model(manifest, lambda layer: data)


def test_large_texts_are_refused_before_they_are_read() -> None:
    with pytest.raises(ModelFormatError, match=f"the system layer has {MAX_TEXT_BYTES + 1} bytes"):
        model_of(GGUF, ("system", b"x"), sizes={"system": MAX_TEXT_BYTES + 1})
    licenses = [("license", b"%d" % number) for number in range(5)]
    with pytest.raises(ModelFormatError, match=rf"layers of text have .* {MAX_TEXTS_BYTES} are allowed"):
        model_of(GGUF, *licenses, sizes={"license": MAX_TEXT_BYTES})
    licenses = [("license", b"%d" % number) for number in range(MAX_TEXT_LAYERS)]
    with pytest.raises(ModelFormatError, match=f"has {MAX_TEXT_LAYERS + 1} layers of text"):
        model_of(GGUF, *licenses)


def test_facts_of_a_wrong_type_are_left_out() -> None:
    config = model_of(GGUF, config={"model_family": ["x"], "file_type": 3, "model_type": "8B"}).config
    assert (config.model_family, config.file_type, config.model_type) == ("", "", "8B")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=10), each, max_size=4),
    max_leaves=10,
)
PARAMETERS = st.dictionaries(st.sampled_from(["temperature", "stop", "seed", "mirostat", "num_gpu", "x"]), JSON)
KINDS = st.sampled_from(["template", "prompt", "system", "params", "messages", "license", "projector", "embed", "?"])


@given(
    st.lists(st.tuples(KINDS, st.binary(max_size=50) | (JSON | PARAMETERS).map(lambda each: json.dumps(each).encode())))
)
def test_any_layers_are_a_model_or_refused(layers: list[tuple[str, bytes]]) -> None:
    model: OllamaModel | None = None
    with suppress(ModelFormatError):
        model = model_of(GGUF, *layers)
    if model is not None:
        text = json.dumps(model.settings.to_json(), ensure_ascii=False)
        assert json.loads(text.encode()) == model.settings.to_json()  # it can be stored
