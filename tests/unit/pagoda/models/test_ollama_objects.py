"""Ollama's description of a model on disk: parameter size, name with a tag, and the template, which a base model lacks."""

import re
from pathlib import Path
from typing import Any

import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.formats.chat_template_text import chat_template_text
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama_objects import listed, parameter_size, shown
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.models.store import ModelStore
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


def test_a_digest_tells_apart_what_answers_differently(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    editor = ModelEditor(store, BlobStore(tmp_path))
    base = store.get(str(write_tiny_gguf(tmp_path / "tiny.gguf")))

    def digest_of(name: str, **settings: Any) -> str:
        editor.create_from_model(name, base, ModelSettings(**settings), lambda status: None)
        return str(listed(editor.get(name))["digest"])

    digests = [
        listed(base)["digest"],
        digest_of("system", system="Be brief."),
        digest_of("system2", system="Be kind."),
        digest_of("template", template="{{ messages[0].content }}"),
        digest_of("parameters", parameters={"temperature": 0.5}),
        digest_of("parameters2", parameters={"temperature": 0.6}),
        digest_of("messages", messages=[{"role": "user", "content": "Hi"}]),
        digest_of("license", license=["MIT"]),
    ]
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    # The same model under another name.
    assert digest_of("again", parameters={"temperature": 0.5}) == digests[4]
    assert digest_of("base") == digests[0]
    editor.copy("system", "copied")
    assert listed(editor.get("copied"))["digest"] == digests[1]
    assert {model["digest"] for model in map(listed, ModelStore(tmp_path).list())} <= set(digests)


def test_a_base_model_has_no_template(tmp_path: Path) -> None:
    model = ModelStore(tmp_path).get(str(write_tiny_gguf(tmp_path / "tiny.gguf", chat_template=None)))
    assert chat_template_text(model) is None
    assert shown(model, SamplingPolicy(), verbose=False)["template"] == ""
