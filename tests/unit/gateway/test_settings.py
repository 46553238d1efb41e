"""Which addresses the gateway listens on without a key."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from gateway.settings import GatewaySettings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert GatewaySettings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", ""])
def test_other_hosts_need_a_key_and_the_refusal_says_how_to_go_on(host: str) -> None:
    with pytest.raises(ValidationError, match="PAGODA_GATEWAY_API_KEY"):
        GatewaySettings(host=host)
    assert GatewaySettings(host=host, api_key=SecretStr("s3cret")).host == host


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="API key is empty"):
        GatewaySettings(host="0.0.0.0", api_key=SecretStr(""))


def test_the_key_is_not_described() -> None:
    assert "s3cret" not in str(GatewaySettings(api_key=SecretStr("s3cret")).described())


def test_the_scheduler_is_found_under_home_by_default() -> None:
    assert GatewaySettings(home=Path("/h")).scheduler_address == "unix:/h/run/scheduler.sock"
    assert GatewaySettings(scheduler="host:1").scheduler_address == "host:1"
