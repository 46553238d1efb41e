"""The choice of the code that samples: native where it can be built and gives the same tokens as numpy's, else numpy's."""

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pagoda.wire.sampling import SamplingParams
from worker.kernels.adjustment import Adjustment
from worker.kernels.native.attempts import CheckError, NoLibraryError, load_first
from worker.kernels.native.sampling import NativeChooser
from worker.kernels.sampling import Choice, ChooseTokens, Logits, choose_tokens

logger = logging.getLogger(__name__)


def load_chooser(directory: Path) -> ChooseTokens:
    """Never fails, and is no second warning: what is wrong with the library, its kernels have said."""
    try:
        return load_first(directory, check_chooser).value
    except NoLibraryError as error:
        logger.info("choosing tokens without native code, which is slower", extra={"reason": str(error)})
        return choose_tokens


def check_chooser(library: ctypes.CDLL) -> NativeChooser:
    """Raises CheckError if its tokens are not those of numpy."""
    chooser = NativeChooser(library)
    rows, choices = zip(*_cases(), strict=True)
    if chooser(rows, choices) != choose_tokens(rows, choices):
        raise CheckError("it gives other tokens than numpy's on this machine")
    return chooser


def _cases() -> Iterator[tuple[Logits, Choice]]:
    """A few that take each path through the native code."""
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
        yield logits_V, Choice(penalised, row << 62, adjustment, logits_V.argsort()[-2:].astype(np.int32))
    yield generator.standard_normal(999).astype(np.float32), Choice(SamplingParams(temperature=0.0), 0)
