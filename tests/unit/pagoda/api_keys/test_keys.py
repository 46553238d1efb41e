"""API keys: which requests are allowed, and how changes of the keys file are followed."""

import hmac
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.http.authorization import needed_scope
from pagoda.api_keys.key_file import KeyEntry, KeyFile, KeyList, KeysError, Scope, WatchedKeys, digest_of
from pagoda.api_keys.keyring import (
    NOBODY,
    Caller,
    KeyNotValidError,
    KeyRefusedError,
    Keyring,
    ScopeMissingError,
    environment_key,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
INFERENCE, ADMIN = Scope.INFERENCE, Scope.ADMIN


def entry(name: str, **values: Any) -> KeyEntry:
    """Return an entry whose key is its name."""
    return KeyEntry(name=name, sha256=digest_of(name.encode()), created_at=NOW - timedelta(days=1), **values)


def write(path: Path, *entries: KeyEntry) -> None:
    """Replace the file, as `pagoda key` does."""
    new = path.with_suffix(".new")
    new.write_text(KeyList(keys=entries).model_dump_json())
    new.chmod(0o600)
    os.replace(new, path)


def keyring(path: Path, *fixed: KeyEntry, open_without_keys: bool = True) -> Keyring:
    return Keyring(fixed, WatchedKeys(path), open_without_keys=open_without_keys, now=lambda: NOW)


def refusal(keys: Keyring, offered: bytes | None, needed: Scope = INFERENCE) -> KeyRefusedError:
    with pytest.raises(KeyRefusedError) as raised:
        keys.authorize(offered, needed)
    return raised.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_known_by_its_digest(path: Path) -> None:
    write(path, entry("laptop", tenant="alice"), entry("ops", scopes=(INFERENCE, ADMIN), isolated=True))
    keys = keyring(path)
    assert keys.authorize(b"laptop", INFERENCE) == Caller(key_name="laptop", tenant="alice", scopes=(INFERENCE,))
    assert keys.authorize(b"ops", ADMIN) == Caller(
        key_name="ops", tenant="default", is_isolated=True, scopes=(INFERENCE, ADMIN)
    )


@pytest.mark.parametrize("offered", [None, b"", b"lapto", b"laptop ", b"LAPTOP", digest_of(b"laptop").encode()])
def test_no_other_key_is(path: Path, offered: bytes | None) -> None:
    write(path, entry("laptop"))
    assert isinstance(refusal(keyring(path), offered), KeyNotValidError)


@pytest.mark.parametrize("offered", [b"first", b"second", b"third", b"fourth", b"none of them"])
def test_every_entry_is_compared_whichever_matches(path: Path, monkeypatch: pytest.MonkeyPatch, offered: bytes) -> None:
    compared: list[str] = []

    def count(stored: str, digest: str, compare: Any = hmac.compare_digest) -> bool:
        compared.append(stored)
        return bool(compare(stored, digest))

    entries = [entry(name) for name in ("first", "second", "third")]
    write(path, *entries[1:])
    keys = keyring(path, entries[0], environment_key("fourth"))
    monkeypatch.setattr("pagoda.api_keys.keyring.hmac.compare_digest", count)
    if offered.startswith(b"none"):
        refusal(keys, offered)
    else:
        keys.authorize(offered, INFERENCE)
    assert sorted(compared) == sorted(digest_of(name) for name in (b"first", b"second", b"third", b"fourth"))


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({"expires_at": NOW}, "expired"),
        ({"expires_at": NOW - timedelta(days=3)}, "expired"),
        ({"revoked_at": NOW - timedelta(hours=1)}, "revoked"),
        ({"revoked_at": NOW - timedelta(hours=1), "expires_at": NOW + timedelta(days=1)}, "revoked"),
    ],
)
def test_what_is_no_longer_valid_says_so_to_its_holder(path: Path, values: dict[str, datetime], state: str) -> None:
    error = refusal(keyring(path, entry("laptop", **values)), b"laptop")
    assert isinstance(error, KeyNotValidError) and f"'laptop' is {state}" in str(error)


def test_a_key_is_valid_until_it_expires(path: Path) -> None:
    keys = keyring(path, entry("laptop", expires_at=NOW + timedelta(seconds=1)))
    assert keys.authorize(b"laptop", INFERENCE).key_name == "laptop"


@pytest.mark.parametrize("scopes", [(INFERENCE,), (ADMIN,), (INFERENCE, ADMIN)])
@pytest.mark.parametrize("needed", list(Scope))
def test_scopes(path: Path, scopes: Sequence[Scope], needed: Scope) -> None:
    keys = keyring(path, entry("laptop", scopes=scopes))
    if needed in scopes:
        assert keys.authorize(b"laptop", needed).key_name == "laptop"
    else:
        error = refusal(keys, b"laptop", needed)
        assert isinstance(error, ScopeMissingError)
        assert f"'{needed}'" in str(error) and "'laptop'" in str(error)


def test_the_key_of_the_environment_may_do_everything(path: Path) -> None:
    keys = keyring(path, environment_key("s3crét"))
    for needed in Scope:
        assert keys.authorize("s3crét".encode(), needed) == Caller(key_name="environment", tenant="default")


def test_a_key_that_was_revoked_in_the_file_is_no_key_of_the_environment(path: Path) -> None:
    write(path, entry("laptop", revoked_at=NOW))
    assert isinstance(refusal(keyring(path, environment_key("laptop")), b"laptop"), KeyNotValidError)


def test_probes_need_no_key(path: Path) -> None:
    write(path, entry("laptop"))
    assert keyring(path).authorize(b"whatever", None) == NOBODY


def test_without_keys_everyone_may_do_everything_where_that_is_allowed(path: Path) -> None:
    assert keyring(path).authorize(None, ADMIN) == NOBODY
    with pytest.raises(KeysError, match="pagoda key create"):
        keyring(path, open_without_keys=False)
    write(path)
    with pytest.raises(KeysError, match="has no keys"):
        keyring(path, open_without_keys=False)


def test_revoking_the_last_key_opens_nothing(path: Path) -> None:
    write(path, entry("laptop", revoked_at=NOW))
    assert isinstance(refusal(keyring(path), None), KeyNotValidError)


# ---- the file


def test_a_file_that_appears_or_changes_counts_at_once(path: Path) -> None:
    keys = keyring(path)
    assert keys.authorize(None, INFERENCE) == NOBODY
    write(path, entry("laptop"))
    refusal(keys, None)
    assert keys.authorize(b"laptop", INFERENCE).key_name == "laptop"
    write(path, entry("laptop", revoked_at=NOW), entry("phone"))
    refusal(keys, b"laptop")
    assert keys.authorize(b"phone", INFERENCE).key_name == "phone"


@pytest.mark.parametrize("content", [b"", b"{", b'{"keys": [{"name": "x"}]}', b"\xff\xfe", None])
def test_a_broken_file_leaves_the_last_keys_in_force_and_is_logged_once(
    path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, entry("laptop"))
    keys = keyring(path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for _ in range(3):
        assert keys.authorize(b"laptop", INFERENCE).key_name == "laptop"
        refusal(keys, None)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == ["keys file unusable; its last keys stay valid"]
    write(path, entry("phone"))
    assert keys.authorize(b"phone", INFERENCE).key_name == "phone"


@pytest.mark.parametrize("content", ["", "[]", '{"keys": {}}', '{"keys": [], "more": 1}'])
def test_a_file_that_is_broken_from_the_start_is_an_error(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(KeysError, match=r"keys\.json is not a list of keys"):
        WatchedKeys(path)


def test_a_file_that_was_named_must_be_there(path: Path) -> None:
    with pytest.raises(KeysError, match="pagoda key create"):
        WatchedKeys(path, must_exist=True)
    assert WatchedKeys(path).entries() == ()


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_may_open_is_warned_of(
    path: Path, mode: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, entry("laptop"))
    path.chmod(mode)
    WatchedKeys(path).entries()
    assert ("keys file readable by other users; run chmod 600 on it" in caplog.messages) is warns


def test_a_key_in_the_wrong_place_is_not_repeated(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, entry("laptop"))
    keys = keyring(path)
    path.write_text(KeyFile(path).path.read_text().replace(digest_of(b"laptop"), "pgd_in_plain"))
    keys.authorize(b"laptop", INFERENCE)
    (reason,) = (record.__dict__["reason"] for record in caplog.records if record.levelno == logging.ERROR)
    assert "keys.0.sha256" in reason and "pgd_in_plain" not in reason


# ---- routes and salts


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        *((path, None) for path in ("/", "/health", "/ping", "/ready")),
        *((path, ADMIN) for path in ("/api/pull", "/api/push", "/api/delete", "/api/copy", "/api/create", "/metrics")),
        ("/api/blobs/sha256:abc", ADMIN),
        *((f"/api/{name}", INFERENCE) for name in ("generate", "chat", "tags", "show", "ps", "version", "embed")),
        *((f"/v1/{name}", INFERENCE) for name in ("chat/completions", "completions", "models", "models/x", "messages")),
        *((path, INFERENCE) for path in ("/tokenize", "/detokenize", "/version", "/openapi.json", "/docs", "/unknown")),
        ("/docs/assets/swagger-ui.css", INFERENCE),
    ],
)
def test_needed_scopes(path: str, scope: Scope | None) -> None:
    assert needed_scope(path) is scope
