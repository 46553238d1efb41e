"""Modules that an image lacks: all that this environment has beyond a tier's extra and the extra `tracing`."""

import importlib.metadata
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pagoda.distribution import DISTRIBUTION
from tests.deploy.image import REPOSITORY

GUARD = Path(__file__).parent / "import_guard"
"""Folder to put into PYTHONPATH: Python then cannot import the modules that FORBIDDEN_MODULES names."""


@cache
def modules_not_installed_with(extra: str) -> Sequence[str]:
    """Return the modules that an image with this extra lacks. The first call takes seconds."""
    there = distributions_of(extra) | distributions_of("tracing") | {DISTRIBUTION}
    owners = importlib.metadata.packages_distributions()
    return sorted(module for module, names in owners.items() if not there & {canonicalize_name(name) for name in names})


def distributions_of(extra: str) -> set[str]:
    """Return the names of the extra's distributions and of all that they require in turn."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"][extra]]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        wanted = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if wanted not in seen and _applies(requirement, ""):
            seen.add(wanted)
            waiting += _required_by(*wanted)
    return {name for name, _ in seen}


def _required_by(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        if any(_applies(requirement, extra) for extra in ("", *extras)):
            requirement.marker = None  # already evaluated
            yield requirement


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
