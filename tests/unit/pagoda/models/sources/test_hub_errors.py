"""Tests of a hub that refuses, breaks, lies and throttles, and of where the token is sent."""

import json
import socket
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.errors import ModelAccessError, ModelError, ModelNotFoundError
from pagoda.models.names import HubName, RegistryName
from pagoda.models.sources import hub_client
from pagoda.models.sources.hub_client import HubClient
from pagoda.models.sources.settings import SourceSettings
from tests.fakes.hub_server import Exchange, FakeHub, Fault
from tests.fakes.hub_user import HubUser

TOKEN = "hf_secret"
LFS_FILE = (
    b'[{"type": "file", "path": "%s.gguf", "size": 1, "oid": "", "lfs": {"size": 1, "oid": "%s", "pointerSize": 134}}]'
)


@pytest.fixture
def member(hub: FakeHub, tmp_path: Path) -> HubUser:
    """Return a user with a token that may read Org/Gated and Org/Private."""
    hub.tokens[TOKEN] = {"Org/Gated", "Org/Private"}
    return HubUser(hub, tmp_path, hub_token=TOKEN)


def refusal(user: HubUser, name: str) -> str:
    """Return the message of a pull that must fail."""
    with pytest.raises(ModelError) as failure:
        user.pull(name)
    message = str(failure.value)
    assert TOKEN not in message
    assert "\n" not in message
    return message


def answer(path: str, status: int, body: bytes = b"", **headers: str) -> Fault:
    """Return a fault that answers requests whose path contains `path`."""

    def fault(exchange: Exchange) -> bool:
        if path in exchange.path:
            exchange.send(status, body, **headers)
            return True
        return False

    return fault


def test_missing_repository(hub: FakeHub, user: HubUser, member: HubUser) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^hf\.co/Org/None does not exist .if it is private, set HF_TOKEN.$"):
        user.pull("hf.co/Org/None")
    with pytest.raises(ModelNotFoundError, match="use the token of an account that may read it"):
        member.pull("hf.co/Org/None")


def test_missing_repository_is_asked_for_at_ollamas_registry(user: HubUser, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def open_registry(name: RegistryName, *args: object, **options: object) -> NoReturn:
        asked.append(str(name))
        raise ModelNotFoundError("not there either")

    monkeypatch.setattr("pagoda.models.sources.registry.open_registry", open_registry)
    with pytest.raises(ModelNotFoundError):
        user.pull("hf.co/Org/None:Q8_0")
    assert asked == []
    with pytest.raises(ModelNotFoundError):
        user.pull("Org/None:Q8_0")
    assert asked == ["registry.ollama.ai/org/none:q8_0"]


def test_private_repository(hub: FakeHub, user: HubUser, member: HubUser, gguf: bytes) -> None:
    hub.add("Org/Private", {"tiny-Q8_0.gguf": gguf}, is_private=True)
    assert "hf.co/Org/Private does not exist (if it is private, set HF_TOKEN)" in refusal(user, "hf.co/Org/Private")
    assert member.pull("Org/Private").name == "Org/Private"


def test_token_is_sent_only_to_the_hub(hub: FakeHub, member: HubUser, gguf: bytes) -> None:
    hub.add("Org/Private", {"tiny-Q8_0.gguf": gguf, "system": b"-"}, is_private=True)
    member.pull("Org/Private")
    tokens = {(seen.host.partition(":")[0], seen.token) for seen in hub.seen}
    assert tokens == {("127.0.0.1", TOKEN), ("localhost", None)}


def test_gated_repository(hub: FakeHub, user: HubUser, member: HubUser, gguf: bytes) -> None:
    hub.add("Org/Gated", {"tiny-Q8_0.gguf": gguf}, is_gated=True)
    page = f"{hub.url}/Org/Gated"
    with pytest.raises(ModelAccessError) as failure:
        user.pull("Org/Gated")
    assert f"hf.co/Org/Gated is gated: accept its terms at {page} and set HF_TOKEN" in str(failure.value)
    hub.tokens["hf_other"] = set()
    stranger = user.with_settings(hub_token="hf_other")
    assert f"accept its terms at {page} with the account of your token" in refusal(stranger, "Org/Gated")
    assert member.pull("Org/Gated").name == "Org/Gated"


def test_wrong_token(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    with pytest.raises(ModelAccessError, match=r"the hub refuses your token .*https://huggingface\.co/settings/tokens"):
        user.with_settings(hub_token="hf_expired").pull("Org/Tiny")


def test_token_with_a_line_end_is_not_shown(hub: FakeHub, user: HubUser) -> None:
    with pytest.raises(ModelAccessError, match="the token for the hub has characters that cannot be sent"):
        user.with_settings(hub_token=f"{TOKEN}\nX").pull("Org/Tiny")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (answer("/revision/", 429, Retry_After="60"), "limits your requests (status 429); try again in 60 seconds"),
        (answer("/revision/", 429), "limits your requests (status 429); try again later, or set HF_TOKEN"),
        (answer("/revision/", 503), "has a failure (status 503); try again later"),
        (answer("/tree/", 500), "has a failure (status 500); try again later"),
        (answer("/revision/", 418), "sent the status 418"),
        (answer("/revision/", 200, b"<html>Login</html>"), "is malformed: it is not JSON; check HF_ENDPOINT"),
        (answer("/revision/", 200, b"[]"), "is malformed: it has no commit"),
        (answer("/revision/", 200, b'{"sha": "main"}'), "is malformed: it has no commit"),
        (
            answer("/revision/", 200, b'{"sha": "%s", "id": "../../etc/x"}' % (b"a" * 40)),
            "the repository's name is '../../etc/x'",
        ),
        (answer("/tree/", 200, b"{}"), "is malformed: it is not a list"),
        (answer("/tree/", 200, b"[1]"), "a file lacks its path, size or digest"),
        (answer("/tree/", 200, b"[" * 100_000), "is malformed: it is not JSON"),
        (
            answer("/tree/", 200, b'[{"type": "file", "path": "../../x.gguf", "size": 1, "oid": "%s"}]' % (b"a" * 40)),
            "the entry of '../../x.gguf' is not valid",
        ),
        (
            answer("/tree/", 200, b'[{"type": "file", "path": "x.gguf", "size": -1, "oid": "%s"}]' % (b"a" * 40)),
            "the entry of 'x.gguf' is not valid",
        ),
        (
            answer(
                "/tree/",
                200,
                b'[{"type": "file", "path": "x.gguf", "size": 1%s, "oid": "%s"}]' % (b"0" * 30, b"a" * 40),
            ),
            "the entry of 'x.gguf' is not valid",
        ),
        (
            answer("/tree/", 200, LFS_FILE % (b"\\ud800", b"a" * 64)),
            "has no model that can be served",
        ),
        (
            answer("/tree/", 200, LFS_FILE % (b"x" * 300, b"a" * 64)),
            "File name too long",
        ),
        (answer("/tree/", 200, b"[]", Link='<?again>; rel="next"'), "its pages do not end"),
        (answer("/tree/", 200, b"[]", Link='<http://a:b/>; rel="next"'), "the address of its next page is not valid"),
        (answer("/tree/", 200, b"[]", Link='</login>; rel="next"'), "/login' is not a page of it; check HF_ENDPOINT"),
        (answer("/revision/", 403, X_Error_Message="Access to this resource is disabled."), "disabled.); see http"),
        (answer("/revision/", 403, X_Error_Message="\x9b31mred"), "refuses access to hf.co/Org/Tiny; see http"),
        (answer("/revision/", 307, Location="http://127.0.0.1:1/"), "cannot be reached: "),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_hub_that_misbehaves(hub: FakeHub, user: HubUser, gguf: bytes, fault: Fault, message: str) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    hub.faults.append(fault)
    assert message in refusal(user, "Org/Tiny")
    assert user.store.list() == []


def test_next_page_is_asked_for_at_the_hub(hub: FakeHub, member: HubUser, gguf: bytes) -> None:
    """A mirror passes on the address of the hub behind it."""
    hub.add("Org/Tiny", {"a": b"-", "b": b"-", "c": b"-", "tiny-Q8_0.gguf": gguf})
    hub.page_url = hub.storage_url
    assert member.pull("Org/Tiny").name == "Org/Tiny"
    assert any("cursor=" in path for path in hub.paths(host="127.0.0.1"))
    assert all(path.startswith("/storage/") for path in hub.paths(host="localhost"))


def test_failure_that_passes(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    failures = [HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE]

    def fail_twice(exchange: Exchange) -> bool:
        if "/revision/" in exchange.path and failures:
            exchange.send(failures.pop())
            return True
        return False

    hub.faults.append(fail_twice)
    assert user.pull("Org/Tiny").name == "Org/Tiny"


def test_listing_that_breaks_off(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})

    def break_off(exchange: Exchange) -> bool:
        if "/tree/" not in exchange.path:
            return False
        exchange.send_response(200)
        exchange.send_header("Content-Length", "1000")
        exchange.end_headers()
        exchange.wfile.write(b"[")
        exchange.close_connection = True
        return True

    hub.faults.append(break_off)
    assert "cannot be reached: " in refusal(user, "Org/Tiny")
    assert len([path for path in hub.paths() if "/tree/" in path]) == 3


def test_endless_listing(hub: FakeHub, user: HubUser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "MAX_SMALL_BYTES", 1000)
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": b""})
    hub.faults.append(answer("/tree/", 200, b" " * 2000))
    assert "is too large" in refusal(user, "Org/Tiny")


def test_weights_without_a_sha256_are_refused(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    hub.without_sha256.add("tiny-Q8_0.gguf")
    assert "lists no SHA-256 for tiny-Q8_0.gguf" in refusal(user, "Org/Tiny")
    assert not any("resolve" in path for path in hub.paths())


def test_weights_with_a_wrong_content(hub: FakeHub, user: HubUser, gguf: bytes, other_gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    file = user.resolve("Org/Tiny").files[0]
    assert file.sha256 is not None
    assert len(gguf) == len(other_gguf)
    hub.replaced[file.sha256] = other_gguf
    message = refusal(user, "Org/Tiny")
    assert "SHA-256 mismatch for tiny-Q8_0.gguf" in message
    assert list((user.repo("Org/Tiny") / "blobs").iterdir()) == []
    hub.replaced.clear()
    assert user.pull("Org/Tiny").digest == file.sha256


def test_small_file_with_a_wrong_content(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "system": b"Be polite."})
    hub.faults.append(answer("/system", 200, b"Be rude..."))
    assert "sent system with another content than it listed" in refusal(user, "Org/Tiny")


def test_commit_that_vanishes_before_the_download(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    commit = hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})

    def vanish(exchange: Exchange) -> bool:
        if "resolve" in exchange.path:
            hub.repos["Org/Tiny"].commits[commit].clear()
        return False

    hub.faults.append(vanish)
    assert "hf.co/Org/Tiny no longer has 'tiny-Q8_0.gguf'" in refusal(user, "Org/Tiny")


def test_branch_that_moves_between_listing_and_download(
    hub: FakeHub, user: HubUser, gguf: bytes, other_gguf: bytes
) -> None:
    old = hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})

    def move(exchange: Exchange) -> bool:
        if "resolve" in exchange.path and len(hub.repos["Org/Tiny"].commits) == 1:
            hub.commit("Org/Tiny", {"tiny-Q8_0.gguf": other_gguf})
        return False

    hub.faults.append(move)
    assert user.pull("Org/Tiny").path.read_bytes() == gguf
    assert (user.repo("Org/Tiny") / "refs/main").read_text() == old
    assert user.pull("Org/Tiny").path.read_bytes() == other_gguf


def test_connection_that_breaks_is_resumed(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    hub.cut_after = [len(gguf), 100_000, 50_000]  # the first answer is for the header
    assert user.pull("Org/Tiny").path.read_bytes() == gguf
    ranges = [seen.range for seen in hub.seen if seen.path.startswith("/storage/")]
    assert ranges[-2:] == ["bytes=100000-", "bytes=150000-"]


def test_hub_that_is_not_there(user: HubUser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert "the hub 127.0.0.1 cannot be reached: " in refusal(user.with_settings(hub_url=address), "Org/Tiny")


def test_hub_that_is_silent(user: HubUser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        message = refusal(user.with_settings(hub_url=address), "Org/Tiny")
    assert "the hub 127.0.0.1 did not answer in time" in message


def test_silence_in_place_of_a_listing(hub: FakeHub, user: HubUser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library asks for a listing without a time limit."""
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": b""})

    def be_silent(exchange: Exchange) -> bool:
        if "/tree/" in exchange.path:
            return hub.resume.wait()
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.01)  # for the next request
        return False

    hub.faults.append(be_silent)
    assert "the hub 127.0.0.1 did not answer in time" in refusal(user, "Org/Tiny")


def test_hub_without_tls(hub: FakeHub, user: HubUser) -> None:
    message = refusal(user.with_settings(hub_url=hub.url.replace("http:", "https:")), "Org/Tiny")
    assert "the TLS connection to the hub 127.0.0.1 failed: " in message
    assert "SSL_CERT_FILE" in message


def test_malformed_address(user: HubUser) -> None:
    assert refusal(user.with_settings(hub_url="huggingface.co"), "Org/Tiny") == (
        "HF_ENDPOINT must be an http or https address (got 'huggingface.co')"
    )


@pytest.mark.parametrize(
    ("variables", "token"),
    [
        ({"HF_TOKEN": " hf_a\n"}, "hf_a"),
        ({"HF_TOKEN_PATH": "token"}, "hf_file"),
        ({"HF_TOKEN_PATH": "token", "HF_TOKEN": "hf_a"}, "hf_a"),
        ({}, None),
    ],
    ids=["variable", "file", "both", "none"],
)
def test_token_of_the_environment(
    hub: FakeHub,
    user: HubUser,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: dict[str, str],
    token: str | None,
) -> None:
    (tmp_path / "token").write_text("hf_file\n")
    if "HF_TOKEN_PATH" in variables:  # the library reads this variable when it is imported
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    if "HF_TOKEN" in variables:
        monkeypatch.setenv("HF_TOKEN", variables["HF_TOKEN"])
    refusal(user.with_settings(hub_token=None), "Org/Tiny")
    assert [seen.token for seen in hub.seen if seen.path.startswith("/api")] == [token]


def test_token_file_that_cannot_be_read(user: HubUser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path))
    assert "the token for the hub cannot be read: " in refusal(user.with_settings(hub_token=None), "Org/Tiny")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "ftp://proxy"), ("SSL_CERT_FILE", "/none"), ("HF_ENDPOINT", "http://hub:port")],
)
def test_settings_of_the_network_that_cannot_be_used(
    user: HubUser, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setattr("httpx._transports.default.create_ssl_context", httpx.create_ssl_context)
    monkeypatch.setenv(variable, value)
    hub_url = SourceSettings.from_environment().hub_url
    assert "the hub cannot be asked: " in refusal(user.with_settings(hub_url=hub_url), "Org/Tiny")


LISTING_KEYS = ("path", "oid", "size", "lfs", "type", "pointerSize", "lastCommit", "securityFileStatus")
INFO_KEYS = ("id", "sha", "siblings", "cardData", "lastModified", "safetensors", "evalResults", "self")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(("file", "x.gguf", "a" * 40, "a" * 64)),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.sampled_from(LISTING_KEYS), inside, max_size=6)
        | st.dictionaries(st.sampled_from(INFO_KEYS), inside, max_size=4)
    ),
    max_leaves=16,
)


@given(page=json_values)
def test_listing_of_any_content_is_read_or_refused(page: object) -> None:
    client = HubClient(HubName(repo="Org/Tiny"), SourceSettings(hub_token=""))
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=json.dumps(page)))
    with httpx.Client(transport=transport) as client.http:
        for ask in (client.commit, lambda: client.list_files("Org/Tiny", "a" * 40)):
            with suppress(ModelError):
                ask()
