"""Tests of the Dockerfile: a linter accepts it; each tier's image runs unprivileged, as first process, with a health check."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.image import HOME, REPOSITORY, image, stages

TIERS = ("gateway", "scheduler", "worker")


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, REPOSITORY / "Dockerfile"], capture_output=True, text=True, timeout=200)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_has_a_target(tier: str) -> None:
    built = image(tier)
    assert built.entrypoint == ["python", "-P", "-m", tier]
    assert built.healthcheck
    assert built.user == "10001:10001"
    assert built.environment["PAGODA_HOME"] == HOME and built.volumes == [HOME]
    # `python` is the one in /opt.
    assert built.environment["PATH"].startswith("/opt/pagoda/bin:")


def test_a_tier_installs_its_own_extra_and_only_the_worker_torch() -> None:
    installs = {tier: " ".join(image(f"build-{tier}").steps) for tier in TIERS}
    assert "'.[gateway]'" in installs["gateway"] and "'.[scheduler]'" in installs["scheduler"]
    assert '".[$WORKER_EXTRAS]"' in installs["worker"]
    assert "'.[tracing]'" in " ".join(image("build").steps)
    assert [tier for tier in TIERS if "TORCH_INDEX" in installs[tier]] == ["worker"]
    for tier in TIERS:
        assert image(tier).steps == [f"--from=build-{tier} /opt/pagoda /opt/pagoda"]


@pytest.mark.parametrize("tier", TIERS)
def test_dependencies_are_installed_before_sources_are_copied(tier: str) -> None:
    assert image("build").steps[1] == "pyproject.toml ./"
    steps = image(f"build-{tier}").steps
    assert steps.index(". .") == 1 and "--no-deps" in steps[2]


def test_what_is_installed_is_in_the_build_context() -> None:
    """.dockerignore names everything that a build needs: a new package must be added there."""
    named = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} <= named
    assert all((REPOSITORY / name).exists() for name in named)


def test_the_images_have_the_oldest_python_that_is_supported() -> None:
    assert stages()["base"].base.startswith("python:")
    version = stages()["base"].base.removeprefix("python:").partition("-")[0]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == f">={version}"
