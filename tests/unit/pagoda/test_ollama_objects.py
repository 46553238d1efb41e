"""What is said of a model on disk: its size in words, its name with a tag, and the template that a base model lacks."""

from pathlib import Path

import pytest

from pagoda.models.chat_template_text import chat_template_text
from pagoda.models.ollama_objects import listed, parameter_size, shown
from pagoda.models.store import ModelStore
from pagoda.sampling_defaults import SamplingPolicy
from tests.fakes.tiny_model import write_tiny_gguf


@pytest.mark.parametrize(
    ("num_parameters", "words"),
    [(999, "999"), (107_200, "107.2K"), (134_515_008, "134.5M"), (1_100_000_000, "1.1B"), (8 * 10**9, "8B")],
)
def test_parameter_size(num_parameters: int, words: str) -> None:
    assert parameter_size(num_parameters) == words


def test_names_have_a_tag(tmp_path: Path) -> None:
    model = ModelStore(tmp_path).get(str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    assert (model.name, listed(model)["name"]) == ("tiny", "tiny:latest")


def test_a_base_model_has_no_template(tmp_path: Path) -> None:
    model = ModelStore(tmp_path).get(str(write_tiny_gguf(tmp_path / "tiny.gguf", chat_template=None)))
    assert chat_template_text(model) is None
    assert shown(model, SamplingPolicy(), verbose=False)["template"] == ""
