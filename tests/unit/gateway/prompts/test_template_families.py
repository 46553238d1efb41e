"""Tests of templates in the style of each model family: they are rendered as in transformers."""

from pathlib import Path

import pytest

from tests.templates.compare import as_pagoda, as_transformers, differences, main
from tests.templates.conversations import CONVERSATIONS

DIRECTORY = Path(__file__).parents[3] / "templates"
FILES = sorted(DIRECTORY.glob("*.jinja"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_family_is_rendered_as_by_transformers(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert not list(differences(source, as_pagoda))
    messages, _ = CONVERSATIONS["a question"]
    assert as_transformers(source, messages, {"bos_token": "", "eos_token": ""}), "the comparison compares nothing"


def test_the_comparison_sees_a_difference(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages | length }}")
    assert list(differences("{{ messages | length }}", lambda *_: "2"))
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"1 of 1 templates equal; 0 of {len(CONVERSATIONS)} conversations differ\n"
