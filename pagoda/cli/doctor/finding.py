"""The result of one check of `pagoda doctor`."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """Serving works, but worse or not in every case."""
    PROBLEM = "problem"
    """Serving does not work until the problem is fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    subject: str
    level: Level
    text: str
    next_step: str = ""
    """Advice, as a sentence without a capital. Empty if there is nothing to do."""


def ok(subject: str, text: str) -> Finding:
    return Finding(subject=subject, level=Level.OK, text=text)


def warning(subject: str, text: str, next_step: str = "") -> Finding:
    return Finding(subject=subject, level=Level.WARNING, text=text, next_step=next_step)


def problem(subject: str, text: str, next_step: str) -> Finding:
    return Finding(subject=subject, level=Level.PROBLEM, text=text, next_step=next_step)
