"""An image of a tier, read from the Dockerfile without building it: its environment, command and health check."""

import io
import json
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).parents[2]
HOME = "/var/lib/pagoda"


@dataclass(slots=True)
class Image:
    """The image of a stage, with what it takes over from the stage that it is built from."""

    base: str
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    user: str = "root"
    volumes: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    """RUN and COPY instructions of this stage alone."""


def image(target: str) -> Image:
    return stages()[target]


@cache
def stages() -> dict[str, Image]:
    found: dict[str, Image] = {}
    current = Image(base="")
    for instruction in DockerfileParser(fileobj=io.BytesIO((REPOSITORY / "Dockerfile").read_bytes())).structure:
        value = instruction["value"]
        match instruction["instruction"]:
            case "FROM":
                base, _, name = value.partition(" AS ")
                current = found[name] = _derived(found.get(base), base)
            case "ENV":
                current.environment |= dict(word.split("=", 1) for word in shlex.split(value))
            case "ENTRYPOINT":
                current.entrypoint = json.loads(
                    value
                )  # the exec form; with the shell form, a shell would receive the signals
            case "HEALTHCHECK":
                current.healthcheck = json.loads(value.partition(" CMD ")[2])
            case "USER":
                current.user = value
            case "RUN" | "COPY":
                current.steps.append(value)
            case "VOLUME":
                current.volumes = [value]
    return found


def _derived(parent: Image | None, base: str) -> Image:
    if parent is None:
        return Image(base=base)
    return Image(base=base, environment=dict(parent.environment), user=parent.user, volumes=parent.volumes)
