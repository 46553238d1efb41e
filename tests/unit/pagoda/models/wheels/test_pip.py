"""The configuration of the user's pip, as pip itself reports it."""

from pathlib import Path

import pytest

from pagoda.models.wheels.pip import DEFAULT_INDEX, read_pip_settings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "NO_INDEX", "FIND_LINKS", "DEFAULT_TIMEOUT", "TIMEOUT", "CERT"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return tmp_path / "pip.conf"


def test_the_environment_counts_more_than_files_and_a_command_more_than_all(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        "[global]\n"
        "index-url = https://one.example/simple\n"
        "extra-index-url =\n    https://two.example/simple\n    https://user:it's@three.example/simple\n"
        "trusted-host = one.example two.example:8443\n"
        "timeout = 7\n"
        "cert = /global.pem\n"
        "[install]\nindex-url = https://of-another-command.example/simple\n"
        "[download]\ncert = /download.pem\nproxy = http://proxy.example:3128\n"
    )
    monkeypatch.setenv("PIP_PROXY", "http://other.example:3128")
    settings = read_pip_settings()
    assert settings.index_urls == (
        "https://one.example/simple",
        "https://two.example/simple",
        "https://user:it's@three.example/simple",
    )
    assert settings.trusted_hosts == ("one.example", "two.example:8443")
    assert settings.timeout_s == 7
    assert settings.certificates == "/download.pem"
    assert settings.proxy == "http://other.example:3128"


def test_without_an_index_or_with_none_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("[global]\nextra-index-url = https://two.example/simple\nfind-links = /a b/\n")
    assert read_pip_settings().index_urls == (DEFAULT_INDEX, "https://two.example/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    settings = read_pip_settings()
    assert settings.index_urls == ()
    assert settings.find_links == ("/a", "b/")
