"""What one look at the machine found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, but less well or not in every case."""
    PROBLEM = "problem"
    """Serving does not work until it is put right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    subject: str
    level: Level
    text: str
    next_step: str = ""
    """What to do about it, as a sentence."""


def ok(subject: str, text: str) -> Finding:
    return Finding(subject=subject, level=Level.OK, text=text)


def warning(subject: str, text: str, next_step: str = "") -> Finding:
    return Finding(subject=subject, level=Level.WARNING, text=text, next_step=next_step)


def problem(subject: str, text: str, next_step: str) -> Finding:
    return Finding(subject=subject, level=Level.PROBLEM, text=text, next_step=next_step)
