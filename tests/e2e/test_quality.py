"""Tests that the served model is the one whose quality is measured: the API's scores equal those of the worker's code."""

from pathlib import Path

import pytest

from bench.quality.in_process import WindowModel
from bench.quality.served import ScoredServer
from bench.quality.text import TEXT, windows
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.store import ModelStore
from pagoda.text.tokenizer import Tokenizer
from tests.e2e.system import System
from worker.kernels.select import select_kernels


def test_scores_over_the_api_are_those_in_process(system: System, home: Path) -> None:
    text = TEXT.read_text()
    (served,) = ScoredServer(f"{system.url}/v1").logprobs(text, max_windows=1)
    model = ModelStore(home).get(DEFAULT_MODEL)
    in_process = WindowModel(model, select_kernels("integer", "cpu", home / "state" / "kernels"))
    window = windows(Tokenizer.load(model).encode(text), None)[0]
    logprobs = in_process.logprobs(window)
    expected = [float(row[token]) for row, token in zip(logprobs, window[1:], strict=True)]
    assert served == pytest.approx(expected, abs=1e-4)
