"""`pagoda key`: a key is printed only once, only the owner may read the file, and errors are readable."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pagoda.api_keys.key_file import KeyFile, Scope, digest_of
from pagoda.cli.keys import KeyRequest, create_key
from pagoda.cli.main import app


class Command:
    def __init__(self, home: Path) -> None:
        self.file = home / "keys.json"
        self._home = home

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["key", *arguments], env={"PAGODA_HOME": str(self._home)})

    def json(self, *arguments: str) -> dict[str, Any]:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        value: dict[str, Any] = json.loads(result.stdout)
        return value


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "home")


def test_a_key_is_printed_once_and_only_its_digest_kept(command: Command) -> None:
    result = command("create", "laptop")
    key = result.stdout.strip()
    assert result.exit_code == 0 and key.startswith("pgd_") and len(key) == 47
    assert "only its digest is stored" in result.stderr and key not in result.stderr
    assert key not in command.file.read_text()
    (entry,) = KeyFile(command.file).read()
    assert (entry.name, entry.tenant, entry.scopes, entry.isolated) == ("laptop", "default", (Scope.INFERENCE,), False)
    assert entry.sha256 == digest_of(key.encode()) and entry.expires_at is None
    for listed in (command("list").stdout, command("list", "--json").stdout):
        assert "laptop" in listed and key not in listed and entry.sha256 not in listed


def test_two_keys_differ(command: Command) -> None:
    assert command("create", "one").stdout != command("create", "two").stdout


def test_the_file_is_for_its_owner_alone(command: Command) -> None:
    command("create", "one")
    command.file.chmod(0o644)
    assert "chmod 600" in command("list").stderr
    command("create", "two")
    assert command.file.stat().st_mode & 0o777 == 0o600
    assert command("list").stderr == ""


def test_options(command: Command) -> None:
    made = command.json(
        "create",
        "ops",
        "--tenant",
        "acme",
        "--scope",
        "admin",
        "--scope",
        "inference",
        "--expires",
        "30d",
        "--isolated",
    )
    assert made.pop("key").startswith("pgd_")
    assert command.json("list") == {"keys": [made]}
    assert (made["tenant"], made["scopes"], made["isolated"]) == ("acme", ["admin", "inference"], True)
    created, expires = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert expires - created == timedelta(days=30)


def test_the_table(command: Command) -> None:
    assert command("list").stdout.split() == ["NAME", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES"]
    command("create", "laptop", "--expires", "3w")
    command("create", "ops", "--scope", "admin", "--tenant", "acme", "--isolated")
    command("revoke", "ops")
    _, laptop, ops = (re.split(" {2,}", line) for line in command("ls").stdout.splitlines())
    assert laptop[0] == "laptop" and laptop[-1].endswith("from now")
    assert ops[:4] == ["ops", "acme (isolated)", "admin", "revoked"]
    assert ops[-1] == "never"


def test_revoking_is_for_good(command: Command) -> None:
    command("create", "laptop")
    first = command.json("revoke", "laptop")
    assert first["state"] == "revoked"
    assert command.json("revoke", "laptop")["revoked_at"] == first["revoked_at"]
    assert "cannot be reused" in command("create", "laptop").stderr


def test_an_expired_key_is_listed_as_expired(command: Command) -> None:
    command("create", "laptop", "--expires", "1m")
    entries = json.loads(command.file.read_text())
    entries["keys"][0]["expires_at"] = "2020-01-01T00:00:00Z"
    command.file.write_text(json.dumps(entries))
    assert command.json("list")["keys"][0]["state"] == "expired"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "a b"], "the name must be 1 to 64 letters"),
        (["create", "laptop", "--tenant", ""], "the tenant must be 1 to 64 letters"),
        (["create", "laptop", "--scope", "root"], "unknown scope 'root' (allowed: inference, admin"),
        (["create", "laptop", "--expires", "0d"], "such as 30d"),
        (["create", "laptop", "--expires", "tomorrow"], "such as 30d"),
        (["revoke", "laptop"], "pagoda key list"),
    ],
)
def test_mistakes_are_sentences(command: Command, arguments: list[str], words: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 1 and words in result.stderr and "Traceback" not in result.stderr
    assert not command.file.exists()


def test_a_broken_file_is_not_overwritten(command: Command) -> None:
    command("create", "laptop")
    command.file.write_text("{")
    result = command("create", "phone")
    assert result.exit_code == 1 and "is not a list of keys" in result.stderr
    assert command.file.read_text() == "{"


def test_another_file(command: Command, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "gateway.json"
    assert command("create", "laptop", "--keys-file", str(other)).exit_code == 0
    assert [entry.name for entry in KeyFile(other).read()] == ["laptop"]
    assert not command.file.exists()


def test_a_link_stays_a_link(command: Command, tmp_path: Path) -> None:
    command("create", "one")
    real = tmp_path / "real.json"
    command.file.rename(real)
    command.file.symlink_to(real)
    command("create", "two")
    assert command.file.is_symlink() and len(KeyFile(real).read()) == 2


def test_keys_made_at_once_are_all_kept(tmp_path: Path) -> None:
    def create(index: int) -> None:
        name = f"key-{index}"
        request = KeyRequest(name=name, tenant="t", scopes=["inference"], expires=None, isolated=False)
        create_key(tmp_path / "keys.json", request)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(24)))
    assert len(KeyFile(tmp_path / "keys.json").read()) == 24


def test_a_floor_of_priority(tmp_path: Path) -> None:
    command = Command(tmp_path)
    made = command.json("create", "batch", "--priority-floor", "10", "--scope", "inference", "--scope", "priority")
    assert (made["priority_floor"], made["scopes"]) == (10, ["inference", "priority"])
    assert "priority >= 10" in command("list").stdout
    refused = command("create", "other", "--priority-floor", str(2**31))
    assert refused.exit_code != 0 and "--priority-floor" in refused.stderr
