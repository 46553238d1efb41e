"""compose.yaml as Docker Compose reads it: anchors, defaults and variables resolved, and checked by its schema."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.image import REPOSITORY, Image, image

KEY = "sesame"
COMPOSE = ("compose.yaml",)
TWO_SCHEDULERS = (*COMPOSE, "compose.schedulers.yaml")


def compose_config(files: Sequence[str] = COMPOSE, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `docker compose config`, which needs no Docker engine."""
    command = [str(Path(sys.executable).with_name("docker-compose"))]
    command += [word for file in files for word in ("--file", str(REPOSITORY / file))]
    # /dev/null, because a developer's own .env must not change a test.
    command += ["--env-file", os.devnull, "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def resolved_compose(files: Sequence[str] = COMPOSE) -> dict[str, Any]:
    checked = compose_config(files, PAGODA_GATEWAY_API_KEY=KEY)
    assert checked.returncode == 0, checked.stderr
    content: dict[str, Any] = json.loads(checked.stdout)
    return content


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The command, environment and health check of a service's container."""

    arguments: list[str]
    environment: dict[str, str]
    healthcheck: list[str]


def container(service: dict[str, Any]) -> Container:
    built: Image = image(service["build"]["target"])
    return Container(
        arguments=[*(service.get("entrypoint") or built.entrypoint), *(service.get("command") or [])],
        environment=built.environment | (service.get("environment") or {}),
        healthcheck=built.healthcheck,
    )
