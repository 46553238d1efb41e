"""Which build of the native library a worker computes with: the first, of those worth trying, that passes a check.

Knows nothing about what is checked.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from worker.kernels.native.build import BuildError, architectures, build_library, find_compiler
from worker.kernels.native.library import load_library

T = TypeVar("T")


class CheckError(Exception):
    """The library computes something else than its twin; the message says what."""


class NoLibraryError(Exception):
    """No build can be used; the message says why, for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[T]):
    value: T
    path: Path
    rejected: str
    """Why builds with more instructions were not taken; empty if the first was."""


def load_first(directory: Path, check: Callable[[ctypes.CDLL], T]) -> Loaded[T]:
    """What `check` makes of the first library that it does not refuse with CheckError. Raises NoLibraryError."""
    try:
        compiler = find_compiler()
    except BuildError as error:
        raise NoLibraryError(str(error)) from error
    rejected: list[str] = []
    for architecture in architectures():
        try:
            path = build_library(directory, compiler, architecture)
            return Loaded(value=check(load_library(path)), path=path, rejected="; ".join(rejected))
        except (BuildError, CheckError, OSError, AttributeError) as error:
            rejected.append(f"for {architecture!r}: {error}")
    raise NoLibraryError("; ".join(rejected))
