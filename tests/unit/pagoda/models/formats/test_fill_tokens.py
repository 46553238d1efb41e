"""Tests of the tokens for a text between two others, in the vocabularies of the known families."""

import pytest

from pagoda.models.formats.fill_tokens import FillTokens, find_fill_tokens


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(
            ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_sep|>"],
            FillTokens(prefix_id=1, suffix_id=3, middle_id=2, end_ids=(1, 3, 2, 0, 4)),
            id="qwen",
        ),
        pytest.param(
            ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<file_sep>"],
            FillTokens(prefix_id=0, suffix_id=2, middle_id=1, end_ids=(0, 2, 1, 3)),
            id="starcoder",
        ),
        pytest.param(
            ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"],
            FillTokens(prefix_id=0, suffix_id=1, middle_id=2, end_ids=(0, 1, 2, 3)),
            id="codellama",
        ),
        pytest.param(
            ["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"],
            FillTokens(prefix_id=1, suffix_id=0, middle_id=2, end_ids=(1, 0, 2)),
            id="deepseek",
        ),
        pytest.param(
            ["[PREFIX]", "[MIDDLE]", "[SUFFIX]"],
            FillTokens(prefix_id=0, suffix_id=2, middle_id=None, end_ids=(0, 2)),
            id="codestral",
        ),
        pytest.param(["<|fim_prefix|>", "<|fim_suffix|>"], None, id="incomplete"),
        pytest.param(["<repo_name>", "<file_sep>", "<|endoftext|>"], None, id="smollm2"),
    ],
)
def test_tokens_of_families(names: list[str], expected: FillTokens | None) -> None:
    assert find_fill_tokens({name: index for index, name in enumerate(names)}) == expected


def test_metadata_come_first() -> None:
    ids = {"<fim_prefix>": 0, "<fim_suffix>": 1, "<fim_middle>": 2}
    metadata = {f"tokenizer.ggml.fim_{name}_token_id": number for number, name in enumerate(["pre", "suf", "mid"], 7)}
    found = find_fill_tokens(ids, metadata)
    assert found is not None and (found.prefix_id, found.suffix_id, found.middle_id) == (7, 8, 9)
    older = {f"tokenizer.ggml.{name}_token_id": 5 for name in ("prefix", "suffix")}
    found = find_fill_tokens(ids, older)  # without a middle
    assert found is not None and found.prefix_id == 0
