"""What `pagoda serve` refuses before it starts anything, and what it tells its children."""

import socket
from pathlib import Path

import pytest

from pagoda.cli.serve import ServeError, check_exposure, check_port
from pagoda.cli.tiers import ServeOptions, tier_commands


def options(home: Path, **values: object) -> ServeOptions:
    return ServeOptions(**{"model": "tiny", "host": "127.0.0.1", "port": 8000, "home": home, **values})  # type: ignore[arg-type]  # the tests' shorthand


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-host"])
def test_a_public_address_needs_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(ServeError, match="--api-key"):
        check_exposure(options(tmp_path, host=host))
    check_exposure(options(tmp_path, host=host, api_key="sesame"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(tmp_path: Path, host: str) -> None:
    check_exposure(options(tmp_path, host=host))


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port}: Address already in use"):
            check_port(options(tmp_path, port=port))


def test_the_key_is_in_no_command_line(tmp_path: Path) -> None:
    commands = tier_commands(options(tmp_path, api_key="sesame"))
    assert [command.name for command in commands] == ["gateway", "worker", "scheduler"]
    assert not any("sesame" in argument for command in commands for argument in command.arguments)
    assert "sesame" in commands[0].environment.values()


def test_urls(tmp_path: Path) -> None:
    assert options(tmp_path, host="0.0.0.0").url == "http://127.0.0.1:8000"
    assert options(tmp_path, host="::1").url == "http://[::1]:8000"
