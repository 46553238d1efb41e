"""Tests of the registry's protocol: manifests, small layers, tokens, redirects and errors, without downloads of weights."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.models.errors import ModelAccessError, ModelError, ModelFormatError, ModelNotFoundError, ModelSourceError
from pagoda.models.names import RegistryName, parse_name
from pagoda.models.sources import registry_client
from pagoda.models.sources.registry import open_registry
from pagoda.models.sources.remote import RemoteModel
from pagoda.models.sources.settings import SourceSettings
from tests.fakes.certificates import Authority
from tests.fakes.registry_server import LAYER_PREFIX, MANIFEST_TYPE, FakeRegistry, digest_of, fake_registry

GGUF = b"GGUF, which is not read here"
LAYERS = (
    ("template", b"{{ .System }}{{ .Prompt }}"),
    ("system", b"Be brief."),
    ("params", b'{"temperature": 0.6, "stop": ["<|im_end|>"], "mirostat": 2}'),
    ("license", b"Apache"),
    ("license", b"MIT"),
)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as registry:
        yield registry


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_client, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))


def resolve(registry: FakeRegistry, name: str, *, insecure: bool = False, is_offline: bool = False) -> RemoteModel:
    place = parse_name(name)
    assert isinstance(place, RegistryName)
    with open_registry(
        place, SourceSettings(registry_url=registry.url, is_offline=is_offline), Path("/nowhere"), insecure=insecure
    ) as source:
        return source.resolve()


def test_a_model_of_the_library(registry: FakeRegistry) -> None:
    version = registry.publish("library/tiny:latest", GGUF, layers=LAYERS)
    remote = resolve(registry, "tiny")
    assert (remote.name, remote.source) == ("tiny:latest", "registry.ollama.ai/library/tiny:latest")
    assert (remote.version, remote.root) == (version, "model.gguf")
    (weights,) = remote.files
    assert weights.url == f"{registry.url}/v2/library/tiny/blobs/{digest_of(GGUF)}"
    assert (weights.path, weights.size_bytes, f"sha256:{weights.sha256}") == ("model.gguf", len(GGUF), digest_of(GGUF))
    assert remote.settings.to_json() == {
        "template": "{{ .System }}{{ .Prompt }}",
        "system": "Be brief.",
        "parameters": {"temperature": 0.6, "stop": ["<|im_end|>"]},
        "license": ["Apache", "MIT"],
    }
    assert remote.warnings == ("a parameter of the model is not used: mirostat 2 is not supported (allowed: 0)",)


def test_requests_say_what_they_want_and_who_asks(registry: FakeRegistry) -> None:
    registry.publish("library/tiny:latest", GGUF)
    resolve(registry, "tiny")
    headers = registry.requests_of("/manifests/")[0].headers
    assert headers["Accept"] == MANIFEST_TYPE
    assert headers["User-Agent"].startswith("pagoda/")
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("name", "published", "displayed"),
    [
        ("tiny:1b", "library/tiny:1b", "tiny:1b"),
        ("registry.ollama.ai/library/tiny", "library/tiny:latest", "tiny:latest"),
        ("https://ollama.com/tiny:1b", "library/tiny:1b", "tiny:1b"),
        ("registry.ollama.ai/someone/tiny:1b", "someone/tiny:1b", "someone/tiny:1b"),
        # The store's names are in lower case, but not the tags of the library.
        ("tiny:8b-instruct-q4_k_m", "library/tiny:8b-instruct-q4_K_M", "tiny:8b-instruct-q4_k_m"),
        ("tiny:q6_k", "library/tiny:q6_K", "tiny:q6_k"),
    ],
    ids=["tag", "full name", "page", "namespace", "K_M", "K"],
)
def test_names(registry: FakeRegistry, name: str, published: str, displayed: str) -> None:
    registry.publish(published, GGUF)
    assert resolve(registry, name).name == displayed


def test_another_registry_by_its_host(registry: FakeRegistry) -> None:
    registry.publish("team/tiny:v1", GGUF)
    name = f"{registry.host}/team/tiny:v1"
    assert resolve(registry, name, insecure=True).name == name
    with pytest.raises(
        ModelSourceError, match=r"127.0.0.1 does not speak TLS: .*; for a registry without TLS, use --ins"
    ):
        resolve(registry, name)


def test_a_missing_model(registry: FakeRegistry) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        resolve(registry, "missing:1b")
    assert str(error.value) == "missing:1b is not at registry.ollama.ai; its library: https://ollama.com/library"
    with pytest.raises(ModelNotFoundError) as error:
        resolve(registry, f"{registry.host}/team/missing", insecure=True)
    assert str(error.value) == f"{registry.host}/team/missing:latest is not at {registry.host}"


def test_offline_nothing_is_asked(registry: FakeRegistry) -> None:
    with pytest.raises(ModelSourceError, match="HF_HUB_OFFLINE is set"):
        resolve(registry, "tiny", is_offline=True)
    assert registry.asked == []


@pytest.mark.parametrize("answer", ["307", "200 + Location", "body", "body + own Location"])
def test_layers_come_from_the_storage_or_the_registry(registry: FakeRegistry, answer: str) -> None:
    registry.answers_with = answer
    registry.needs_token = True
    registry.publish("library/tiny:latest", GGUF, layers=LAYERS)
    assert resolve(registry, "tiny").settings.system == "Be brief."
    stored = registry.requests_of("/storage/")
    assert len(stored) == (0 if "body" in answer else 1 + len(LAYERS))
    assert all(each.token is None and each.host.startswith("localhost:") for each in stored)
    blobs = registry.requests_of("/blobs/")
    assert {each.token for each in blobs} == {"token-0"}


def test_a_token_is_fetched_once_and_again_when_it_has_expired(registry: FakeRegistry) -> None:
    registry.needs_token = True
    registry.publish("library/tiny:latest", GGUF, layers=LAYERS)
    resolve(registry, "tiny")
    assert len(registry.requests_of("/token")) == 1
    assert [each.status for each in registry.requests_of("/manifests/")] == [401, 200]

    registry.token_uses = 2
    resolve(registry, "tiny")
    assert len(registry.requests_of("/token")) == 1 + 4  # of 7 requests, each token is good for two


@pytest.mark.parametrize(
    "realm", ["http://localhost:{port}/token", "http://127.0.0.1:1/token", "token", "http://[/", ""]
)
def test_a_token_is_asked_only_of_the_registry_itself(registry: FakeRegistry, realm: str) -> None:
    registry.needs_token = True
    registry.realm = realm.format(port=registry.port) or "http://"
    registry.publish("library/tiny:latest", GGUF)
    with pytest.raises(ModelAccessError, match="to another server for a token"):
        resolve(registry, "tiny")
    assert registry.requests_of("/token") == []


@pytest.mark.parametrize("number", [1, 3])
def test_a_busy_token_service_is_asked_again(registry: FakeRegistry, number: int) -> None:
    registry.needs_token = True
    registry.statuses = [("/token", 503)] * number
    registry.publish("library/tiny:latest", GGUF)
    assert resolve(registry, "tiny").name == "tiny:latest"
    registry.statuses = [("/token", 503)] * 4
    with pytest.raises(
        ModelSourceError, match=r"^127.0.0.1 cannot be reached: the service for tokens answered 503; check"
    ):
        resolve(registry, "tiny")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"token": 1}', b'{"token": ""}', b'{"token": "a\\nb"}', b"[" * 9999]
)
def test_an_answer_without_a_token(registry: FakeRegistry, body: bytes) -> None:
    registry.needs_token = True
    registry.token_answer = body
    registry.publish("library/tiny:latest", GGUF)
    with pytest.raises(ModelAccessError, match="gives no token to anonymous users"):
        resolve(registry, "tiny")


def test_private_models_need_a_key(registry: FakeRegistry) -> None:
    registry.needs_token = registry.refuses_tokens = True
    registry.publish("library/tiny:latest", GGUF)
    with pytest.raises(ModelAccessError) as error:
        resolve(registry, "tiny")
    assert str(error.value) == (
        "127.0.0.1 gives no token to anonymous users; private models need an ssh key that is known there, which is not "
        "supported; pull the model with Ollama, whose models Pagoda serves in place"
    )


def test_a_token_that_is_never_accepted_is_an_error(registry: FakeRegistry) -> None:
    registry.needs_token = True
    registry.token_uses = 0
    registry.publish("library/tiny:latest", GGUF)
    with pytest.raises(ModelAccessError, match=r"refuses access \(401\)"):
        resolve(registry, "tiny")
    assert len(registry.requests_of("/manifests/")) == 2


@pytest.mark.parametrize("path", ["/manifests/", "/blobs/", "/storage/"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_errors_that_pass_are_retried(registry: FakeRegistry, path: str, status: int) -> None:
    registry.statuses = [(path, status)] * 3
    registry.publish("library/tiny:latest", GGUF, layers=LAYERS)
    assert resolve(registry, "tiny").settings.system == "Be brief."


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (429, "127.0.0.1 has received too many requests from here (429); try again later"),
        (503, '127.0.0.1 answered 503: {"errors":[{"message":"a fault of the test"}]}; try again later'),
    ],
)
def test_errors_that_stay_are_said(registry: FakeRegistry, status: int, said: str) -> None:
    registry.statuses = [("/manifests/", status)] * 4
    registry.publish("library/tiny:latest", GGUF)
    with pytest.raises(ModelSourceError) as error:
        resolve(registry, "tiny")
    assert str(error.value) == said
    assert registry.statuses == []


def test_a_registry_that_wants_time_gets_it(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    registry.statuses = [("/manifests/", 429)] * 2
    registry.error_headers = {"Retry-After": "7"}
    registry.publish("library/tiny:latest", GGUF)
    resolve(registry, "tiny")
    assert waits == [7.0, 7.0]
    registry.statuses = [("/manifests/", 429)]
    registry.error_headers = {"Retry-After": str(10**6)}
    resolve(registry, "tiny")
    assert waits[2:] == [registry_client.MAX_RETRY_AFTER_S]


def test_an_error_that_does_not_pass_is_not_retried(registry: FakeRegistry) -> None:
    registry.statuses = [("/manifests/", 418)] * 2
    with pytest.raises(ModelSourceError, match="answered 418"):
        resolve(registry, "tiny")
    assert len(registry.statuses) == 1


@pytest.mark.parametrize(
    "manifest", [b"<html>Please log in</html>", b"[]", b"{", b'{"layers":[{}]}', b" " * (5 << 20)], ids=range(5)
)
def test_an_answer_that_is_no_manifest(registry: FakeRegistry, manifest: bytes) -> None:
    registry.manifests["library/tiny:latest"] = manifest
    with pytest.raises(
        ModelSourceError, match=r"sent no usable answer for registry.ollama.ai/library/tiny:latest: the mod"
    ):
        resolve(registry, "tiny")


def test_a_model_that_cannot_be_used_is_refused_by_name(registry: FakeRegistry) -> None:
    registry.publish("library/tiny:latest", GGUF, layers=[("adapter", b"LoRA")])
    with pytest.raises(
        ModelFormatError, match=r"^registry.ollama.ai/library/tiny:latest cannot be used: .*LoRA adapter"
    ):
        resolve(registry, "tiny")
    registry.publish("library/cloud:latest", None, config={"remote_host": "https://ollama.com", "remote_model": "x:1t"})
    with pytest.raises(ModelFormatError, match=r"runs at https://ollama.com"):
        resolve(registry, "cloud")


def test_a_layer_with_another_content_is_refused(registry: FakeRegistry) -> None:
    registry.publish("library/tiny:latest", GGUF, layers=LAYERS)
    registry.blobs[digest_of(b"Be brief.")] = b"Be rude!!"
    with pytest.raises(ModelSourceError, match=r"^SHA-256 mismatch for the system layer .* in 9\)$"):
        resolve(registry, "tiny")
    config = json.loads(registry.manifests["library/tiny:latest"])["config"]
    registry.blobs[config["digest"]] = b"{}"
    with pytest.raises(ModelSourceError, match=r"^SHA-256 mismatch for the config layer "):
        resolve(registry, "tiny")


@pytest.mark.parametrize(("size", "found"), [(8, "in more than 8"), (10, "in 9")], ids=["longer", "shorter"])
def test_a_layer_of_another_size_is_refused(registry: FakeRegistry, size: int, found: str) -> None:
    registry.publish("library/tiny:latest", GGUF, layers=LAYERS, sizes={"system": size})
    with pytest.raises(ModelSourceError, match=f"SHA-256 mismatch for the system layer .* {found}"):
        resolve(registry, "tiny")


def test_a_layer_that_is_cut_short_is_read_again(registry: FakeRegistry) -> None:
    registry.publish("library/tiny:latest", GGUF, layers=LAYERS)
    registry.breaks = [4, 0, 7]
    assert resolve(registry, "tiny").settings.system == "Be brief."


def test_a_layer_that_is_gone(registry: FakeRegistry) -> None:
    registry.publish("library/tiny:latest", GGUF, layers=LAYERS)
    del registry.blobs[digest_of(b"Be brief.")]
    with pytest.raises(ModelSourceError, match=r"has the manifest of .* but not its system layer"):
        resolve(registry, "tiny")


def test_a_model_that_changes_in_between_is_the_old_one(registry: FakeRegistry) -> None:
    old = registry.publish("library/tiny:latest", GGUF, layers=LAYERS)

    def change(path: str) -> None:
        if "/blobs/" in path:
            registry.publish("library/tiny:latest", GGUF, layers=[("system", b"Be rude.")])

    registry.on_request = change
    remote = resolve(registry, "tiny")
    assert (remote.version, remote.settings.system) == (old, "Be brief.")
    assert resolve(registry, "tiny").settings.system == "Be rude."


def test_a_registry_that_cannot_be_reached(tmp_path: Path) -> None:
    name = RegistryName(host="127.0.0.1:1", namespace="team", model="tiny")
    with (
        open_registry(name, SourceSettings(), tmp_path, insecure=True) as source,
        pytest.raises(ModelSourceError, match=r"^127.0.0.1 cannot be reached: .*; check the network, and try again$"),
    ):
        source.resolve()


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    with fake_registry(Authority(tmp_path).issue("registry")) as registry:
        name = RegistryName(host=registry.host, namespace="team", model="tiny")
        with (
            open_registry(name, SourceSettings(), tmp_path, insecure=False) as source,
            pytest.raises(
                ModelSourceError, match=r"^the certificate of 127.0.0.1 is not trusted: .* set SSL_CERT_FILE$"
            ),
        ):
            source.resolve()
        assert registry.asked == []


@pytest.mark.parametrize(
    "location", ["https://xn--a/", "http://127.0.0.1:99999/", "http://[", "file:///etc/passwd", "http://a..b/"]
)
def test_redirects_to_impossible_places(registry: FakeRegistry, location: str) -> None:
    registry.publish("library/tiny:latest", GGUF)
    registry.statuses = [("/blobs/", 307)] * 9
    registry.error_headers = {"Location": location}
    with pytest.raises(ModelSourceError):
        resolve(registry, "tiny")


def test_the_text_of_another_host_is_not_shown(registry: FakeRegistry) -> None:
    registry.publish("library/tiny:latest", GGUF)
    registry.statuses = [("/storage/", 418)]
    with pytest.raises(ModelSourceError) as error:
        resolve(registry, "tiny")
    assert str(error.value) == "localhost answered 418; try again later"


def test_a_refusal_of_the_storage_is_not_one_of_the_registry(registry: FakeRegistry) -> None:
    registry.publish("library/tiny:latest", GGUF)
    registry.link_uses = 0
    with pytest.raises(ModelSourceError, match=r"^localhost answered 403; try again later$") as error:
        resolve(registry, "tiny")
    assert not isinstance(error.value, ModelAccessError)


@pytest.mark.parametrize("address", ["https://xn--a", "http://[", "https://"])
def test_an_address_that_is_not_one_of_a_registry(tmp_path: Path, address: str) -> None:
    name = RegistryName(host="registry.ollama.ai", namespace="library", model="tiny")
    settings = SourceSettings(registry_url=address)
    with (
        pytest.raises(ModelSourceError),
        open_registry(name, settings, tmp_path, insecure=False) as source,
    ):
        source.resolve()


def test_redirects_without_end(registry: FakeRegistry) -> None:
    registry.publish("library/tiny:latest", GGUF)
    registry.statuses = [("/manifests/", 308)] * 100
    registry.error_headers = {"Location": "/v2/library/tiny/manifests/latest"}
    with pytest.raises(ModelSourceError, match="redirects without end"):
        resolve(registry, "tiny")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=10), each, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50)
@given(
    layers=st.lists(
        st.fixed_dictionaries(
            {
                "mediaType": st.sampled_from(["model", "system", "params", "messages", "license", "tensor", "x"]).map(
                    LAYER_PREFIX.__add__
                ),
                "digest": st.sampled_from([digest_of(b"{}"), digest_of(b"missing"), "sha256:0"]),
                "size": st.sampled_from([2, 3, 10**15]) | JSON,
            }
        )
        | JSON,
        max_size=4,
    ),
    rest=st.dictionaries(st.sampled_from(["config", "schemaVersion", "mediaType"]), JSON),
)
def test_any_manifest_is_a_model_or_an_error_for_the_user(layers: list[object], rest: dict[str, object]) -> None:
    with fake_registry() as registry, pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_client, "RETRY_DELAYS_S", ())
        registry.blobs[digest_of(b"{}")] = b"{}"
        registry.manifests["library/any:latest"] = json.dumps({"layers": layers, **rest}).encode()
        remote: RemoteModel | None = None
        with suppress(ModelError):
            remote = resolve(registry, "any")
        assert remote is None or remote.files[0].size_bytes >= 0
