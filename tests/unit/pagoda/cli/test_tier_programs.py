"""Starting a tier whose packages are not all installed."""

import importlib.util
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pagoda.cli.failure import CommandError
from pagoda.cli.main import app
from pagoda.cli.tier_programs import TIERS, check_installed, missing_packages

run = CliRunner().invoke


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the set of hidden modules' names, to which a test adds."""
    hidden: set[str] = set()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find_spec(name))
    return hidden


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_is_missing_here(tier: str) -> None:
    assert missing_packages(tier) == []


def test_each_tier_needs_the_packages_of_its_extra(without: set[str]) -> None:
    without |= {"fastapi", "redis", "uvloop", "prometheus_client", "torch"}
    assert missing_packages("gateway") == ["fastapi", "prometheus-client", "redis"]
    assert missing_packages("scheduler") == ["redis", "uvloop"]
    assert missing_packages("worker") == ["torch", "uvloop"]


def test_the_error_names_the_packages_and_the_command(without: set[str]) -> None:
    without |= {"torch", "fastapi"}
    with pytest.raises(CommandError, match=r"of worker are not installed: torch\. .* 'pagoda-llm\[worker\]'"):
        check_installed("worker")
    with pytest.raises(CommandError, match=r"not installed: fastapi, torch\. .* 'pagoda-llm\[all\]'"):
        check_installed(*TIERS)


@pytest.mark.parametrize("arguments", [["serve"], ["gateway"], ["gateway", "--help"], ["help", "gateway"]])
def test_a_command_fails_before_it_starts_anything(
    arguments: list[str], without: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    without.add("fastapi")
    failed = run(app, arguments, env={"PAGODA_HOME": str(tmp_path / "home")})
    assert failed.exit_code == 1 and failed.stderr.startswith("Error: packages of gateway")
    assert "fastapi" in failed.stderr and "Traceback" not in failed.stderr
    assert started == [] and not (tmp_path / "home").exists()
