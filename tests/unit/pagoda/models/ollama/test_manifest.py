"""Tests of Ollama's manifests: what real ones contain, and hostile ones."""

import hashlib
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.errors import ModelFormatError
from pagoda.models.ollama.manifest import (
    LAYER_PREFIX,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Layer,
    OllamaManifest,
    parse_manifest,
)

HEX = "6a0746a1ec1aef3e7ec53868f220ff6e389f6f8ef87a01d77c96807de94ca2aa"
GGUF_LAYER = {"mediaType": f"{LAYER_PREFIX}model", "digest": f"sha256:{HEX}", "size": 4661211424}
# As Ollama's registry sends it.
REAL = (
    '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":'
    '"application/vnd.docker.container.image.v1+json",'
    '"digest":"sha256:3f8eb4da87fa7a3c9da615036b0dc418d31fef2a30b115ff33562588b32c691d","size":485},"layers":['
    f'{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{HEX}","size":4661211424}},'
    '{"mediaType":"application/vnd.ollama.image.license",'
    '"digest":"sha256:4fa551d4f938f68b8c1e6afa9d28befb70e3f33f75d0753248d530364aeea40f","size":12403},'
    '{"mediaType":"application/vnd.ollama.image.template",'
    '"digest":"sha256:8ab4849b038cf0abc5b1c9b8ee1443dca6b93a045c2272180d985126eb40bf6f","size":254},'
    '{"mediaType":"application/vnd.ollama.image.params",'
    '"digest":"sha256:577073ffcc6ce95b9981eacc77d1039568639e5638e83044994560d9ef82ce1b","size":110}]}'
).encode()


def manifest_of(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "layers": [GGUF_LAYER], **changes}).encode()


def test_a_real_manifest() -> None:
    manifest = parse_manifest(REAL)
    assert manifest.digest == hashlib.sha256(REAL).hexdigest()
    assert manifest.config is not None
    assert manifest.config.size_bytes == 485
    assert [layer.kind for layer in manifest.layers] == ["model", "license", "template", "params"]
    assert manifest.of_kind("model") == [Layer(media_type=f"{LAYER_PREFIX}model", sha256=HEX, size_bytes=4661211424)]


@pytest.mark.parametrize(
    "config", [None, {}, {"digest": "", "size": 0, "mediaType": ""}], ids=["null", "empty", "no digest"]
)
def test_a_manifest_without_config(config: object) -> None:
    assert parse_manifest(manifest_of(config=config)).config is None


def test_digests_are_in_lower_case_and_without_prefix() -> None:
    for digest in (f"sha256:{HEX.upper()}", f"sha256-{HEX}"):
        assert parse_manifest(manifest_of(layers=[GGUF_LAYER | {"digest": digest}])).layers[0].sha256 == HEX


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"<html>log in</html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"layers":1' + b"0" * 10_000 + b"}", "not JSON"),
        (b"[]", "no list of layers"),
        (b'{"schemaVersion":2}', "no list of layers"),
        (b'{"layers":null}', "no list of layers"),
        (b'{"manifests":[]}', "no list of layers"),
        (manifest_of(layers=[{"mediaType": "x"}]), "layer 0 has no mediaType, digest and size"),
        (manifest_of(layers=[GGUF_LAYER, GGUF_LAYER | {"size": True}]), "layer 1 has no mediaType"),
        (manifest_of(layers=[GGUF_LAYER | {"size": 1.5}]), "layer 0 has no mediaType"),
        (manifest_of(layers=[GGUF_LAYER | {"size": -1}]), "size of layer 0"),
        (manifest_of(layers=[GGUF_LAYER | {"size": 2**63}]), "size of layer 0"),
        (manifest_of(layers=[GGUF_LAYER | {"digest": "sha256:../../etc/passwd"}]), "digest of layer 0"),
        (manifest_of(layers=[GGUF_LAYER | {"digest": f"sha256:{HEX}\n"}]), "digest of layer 0"),
        (manifest_of(layers=[GGUF_LAYER | {"mediaType": "x\n" * 10}]), "mediaType of layer 0"),
        (manifest_of(config=[]), "config is not an object"),
        (manifest_of(config={"digest": "sha256:1", "size": 1}), "digest of its config"),
        (manifest_of(layers=[GGUF_LAYER] * (MAX_LAYERS + 1)), f"has {MAX_LAYERS + 1} layers"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "bytes (at most"),
    ],
    ids=range(20),
)
def test_a_hostile_manifest_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ModelFormatError, match="the model's manifest") as error:
        parse_manifest(data)
    assert reason in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=10), each, max_size=4),
    max_leaves=10,
)
LAYER = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.sampled_from([f"{LAYER_PREFIX}model", f"{LAYER_PREFIX}params"]) | JSON,
        "digest": st.just(f"sha256:{HEX}") | JSON,
        "size": st.integers(min_value=0, max_value=10**6) | JSON,
    },
)


@given(
    st.fixed_dictionaries({}, optional={"layers": st.lists(LAYER | JSON, max_size=4) | JSON, "config": LAYER | JSON})
)
def test_any_json_is_a_manifest_or_refused(content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    manifest: OllamaManifest | None = None
    with suppress(ModelFormatError):
        manifest = parse_manifest(data)
    if manifest is not None:
        assert len(manifest.layers) == len(content["layers"])
        assert all(len(layer.sha256) == 64 and layer.size_bytes >= 0 for layer in manifest.layers)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ModelFormatError):
        parse_manifest(data)
