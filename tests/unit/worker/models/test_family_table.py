"""Tests that the table of families in docs/model-families.md is that of the code."""

import re
from pathlib import Path

import gguf
import transformers

from pagoda.models.formats.families.missing import NEEDS
from pagoda.models.formats.families.tables import GGUF_FAMILIES, HF_FAMILIES, TENSORS
from pagoda.models.formats.text_part import WRAPPERS
from pagoda.text.pre_tokenizers import PRE_TOKENIZERS
from worker.models.families import FAMILIES

DOCUMENT = Path(__file__).parents[4] / "docs" / "model-families.md"
ROW = re.compile(
    r"^\| (?P<models>[^|`]+) \| (?P<classes>[^|]*) \| (?P<gguf>[^|]*) \| (?P<pre>[^|]*) ?\|$", re.MULTILINE
)
NAME = re.compile(r"`([^`]+)`")
ROWS = [
    {column: NAME.findall(cell) for column, cell in row.groupdict().items()}
    for row in ROW.finditer(DOCUMENT.read_text())
]


def test_every_class_is_in_the_table_once() -> None:
    assert sorted(name for row in ROWS for name in row["classes"]) == sorted(HF_FAMILIES)


def test_every_architecture_is_in_the_table() -> None:
    listed = {name for row in ROWS for name in row["gguf"]}
    assert listed == set(GGUF_FAMILIES) == set(TENSORS) == set(FAMILIES)


def test_a_class_stands_beside_its_architecture() -> None:
    for row in ROWS:
        assert {HF_FAMILIES[name].architecture for name in row["classes"]} <= set(row["gguf"])


def test_the_vocabularies_are_known() -> None:
    assert {name for row in ROWS for name in row["pre"]} <= set(PRE_TOKENIZERS)


def test_what_a_model_needs_is_said_of_models_that_are_refused() -> None:
    supported = HF_FAMILIES.keys() | GGUF_FAMILIES.keys() | WRAPPERS.keys()
    assert not NEEDS.keys() & supported
    assert {name for name in NEEDS if not hasattr(transformers, name)} <= set(gguf.MODEL_ARCH_NAMES.values())
