"""Tests of the gateway's settings, such as the addresses that need a key."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from gateway.settings import GatewaySettings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert GatewaySettings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", ""])
def test_other_hosts_need_a_key_and_the_refusal_says_how_to_go_on(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="pagoda key create NAME`, or set PAGODA_GATEWAY_API_KEY"):
        GatewaySettings(host=host, home=tmp_path)
    assert GatewaySettings(host=host, home=tmp_path, api_key=SecretStr("s3cret")).host == host


def test_a_keys_file_opens_other_hosts(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.touch()  # Its content is read only when the gateway starts.
    assert GatewaySettings(host="0.0.0.0", home=tmp_path).keys_path == file
    assert GatewaySettings(host="0.0.0.0", home=tmp_path / "none", keys_file=file).keys_path == file


def test_listed_keys_must_be_keys(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="not a list of keys"):
        GatewaySettings(keys=SecretStr("s3cret"))
    with pytest.raises(ValidationError, match="refusing to listen"):
        GatewaySettings(host="0.0.0.0", home=tmp_path, keys=SecretStr('{"keys": []}'))


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="API key is empty"):
        GatewaySettings(host="0.0.0.0", api_key=SecretStr(""))


def test_the_key_is_not_described() -> None:
    assert "s3cret" not in str(GatewaySettings(api_key=SecretStr("s3cret")).described())


def test_the_scheduler_is_found_under_home_by_default() -> None:
    assert GatewaySettings(home=Path("/h")).scheduler_addresses == ("unix:/h/run/scheduler.sock",)
    assert GatewaySettings(scheduler="localhost:1, 127.0.0.1:2").scheduler_addresses == ("localhost:1", "127.0.0.1:2")
