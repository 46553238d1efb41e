"""A fixture with the tiny model, as the store describes it."""

from pathlib import Path

import pytest

from pagoda.models.model import Model
from pagoda.models.store import ModelStore
from pagoda.text.tokenizer import Tokenizer
from tests.fakes.tiny_model import write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    home = tmp_path_factory.mktemp("tiny")
    return load_model(write_tiny_gguf(home / "tiny.gguf"), home)


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model: Model) -> Tokenizer:
    return Tokenizer.load(tiny_model)


def load_model(path: Path, home: Path) -> Model:
    return ModelStore(home).get(str(path))
