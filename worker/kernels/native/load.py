"""Loading of the native library: the first build whose results equal those of the Python code.

One build is tried for each set of instructions that the processor supports, the largest set first. A build is rejected if it
does not compile, if one of its structures differs from Python's (bindings.py), or if a result differs. If all are rejected,
torch and numpy compute the same results more slowly.
"""

import ctypes
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from pagoda.wire.sampling import SamplingParams
from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS, KVFormat
from worker.kernels.logit_adjustment import Adjustment
from worker.kernels.native.bindings import load_library
from worker.kernels.native.build import BuildError, architectures, build_library, find_compiler
from worker.kernels.native.kernels import NativeIntegerKernels
from worker.kernels.native.layout_check import LayoutError
from worker.kernels.native.sampling import NativeChooser
from worker.kernels.native.self_check import find_difference
from worker.kernels.sampling import Choice, ChooseTokens, Logits, choose_tokens

logger = logging.getLogger(__name__)

T = TypeVar("T")


class CheckError(Exception):
    """A result of the library differs from the reference implementation's; the message says which."""


class NoLibraryError(Exception):
    """No build can be used; the message gives the reason for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[T]):
    value: T
    path: Path
    rejected: str
    """Reasons why builds with more instructions were rejected; empty if the first build was accepted."""


def load_integer_kernels(directory: Path, kv_format: KVFormat = KV_FORMATS[DEFAULT_KV_DTYPE]) -> IntegerKernels:
    """Return native kernels if a build passes the checks, else torch's, which give the same bits; log the reason."""
    started, reference = time.monotonic(), IntegerKernels(kv_format=kv_format)

    def check(library: ctypes.CDLL) -> NativeIntegerKernels:
        kernels = NativeIntegerKernels(library, kv_format)
        if difference := find_difference(kernels, reference):
            raise CheckError(f"{difference} gives other bits than torch on this machine")
        return kernels

    try:
        loaded = load_first(directory, check)
    except NoLibraryError as error:
        logger.warning("native kernels unavailable; using slower torch kernels", extra={"reason": str(error)})
        return reference
    if loaded.rejected:
        logger.warning(
            "native kernels do not use all instruction sets of the processor", extra={"reason": loaded.rejected}
        )
    logger.info("native kernels loaded", extra={"path": str(loaded.path), "seconds": time.monotonic() - started})
    return loaded.value


def load_chooser(directory: Path) -> ChooseTokens:
    """Return the native chooser if a build passes the check, else numpy's. Loading the kernels has logged a warning already."""
    try:
        return load_first(directory, check_chooser).value
    except NoLibraryError as error:
        logger.info("native sampling unavailable; using slower numpy code", extra={"reason": str(error)})
        return choose_tokens


def load_first(directory: Path, check: Callable[[ctypes.CDLL], T]) -> Loaded[T]:
    """Return the result of `check` for the first library that can be loaded and passes it.

    `check` raises CheckError to reject a library. Raises NoLibraryError if all are rejected.
    """
    try:
        compiler = find_compiler()
    except BuildError as error:
        raise NoLibraryError(str(error)) from error
    rejected: list[str] = []
    for architecture in architectures():
        try:
            path = build_library(directory, compiler, architecture)
            return Loaded(value=check(load_library(path)), path=path, rejected="; ".join(rejected))
        except (BuildError, CheckError, LayoutError, OSError, AttributeError) as error:
            rejected.append(f"for {architecture!r}: {error}")
    raise NoLibraryError("; ".join(rejected))


def check_chooser(library: ctypes.CDLL) -> NativeChooser:
    """Return the library's chooser. Raises CheckError if its tokens differ from numpy's."""
    chooser = NativeChooser(library)
    rows, choices = zip(*_chooser_cases(), strict=True)
    if chooser(rows, choices) != choose_tokens(rows, choices):
        raise CheckError("choose_tokens gives other tokens than numpy on this machine")
    return chooser


def _chooser_cases() -> Iterator[tuple[Logits, Choice]]:
    """Yield a few cases that cover each path through the native code."""
    generator = np.random.default_rng(1)
    for top_k in (0, 3, 500):
        for top_p, min_p in ((1.0, 0.0), (0.9, 0.0), (1.0, 0.01), (0.5, 0.1)):
            for logits_V in (generator.standard_normal(999).astype(np.float32) * 4, np.zeros(999, np.float32)):
                sampling = SamplingParams(temperature=0.9, top_k=top_k, top_p=top_p, min_p=min_p)
                yield logits_V, Choice(sampling, int(generator.integers(1 << 63)))
    penalised = SamplingParams(
        temperature=0.5, repetition_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.1, logit_bias={7: 2.5}
    )
    adjustment = Adjustment.of(penalised, [3, 500, 3, 9, 998, 998], 2)
    for row in range(4):
        logits_V = generator.standard_normal(999).astype(np.float32) * 4
        banned_ids, mask_W = (
            logits_V.argsort()[-2:].astype(np.int32),
            generator.integers(-(1 << 31), 1 << 31, 32, np.int32),
        )
        yield logits_V, Choice(penalised, row << 62, adjustment, banned_ids)
        yield logits_V, Choice(penalised, row << 62, adjustment, banned_ids, mask_W)
        yield logits_V, Choice(SamplingParams(temperature=0.9), row << 62, mask_W=mask_W)
    yield generator.standard_normal(999).astype(np.float32), Choice(SamplingParams(temperature=0.0), 0)
