"""Tokens for a text between a beginning and an end (fill in the middle), in models that were trained to write it.

A vocabulary that has all tokens of one of the known families can fill. In a GGUF file, metadata keys may name the tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pagoda.models.formats.end_tokens import checkpoint_ids_by_name
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.gguf_tokens import FILL_ENDS, PREFIX, read_tokens, token_metadata
from pagoda.models.model import Model, ModelFormat

_GGUF_KEYS = (
    ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id"),
    ("prefix_token_id", "suffix_token_id", "middle_token_id"),
)
_NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<PRE>", "<SUF>", "<MID>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),  # DeepSeek-Coder
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    ("<|prefix|>", "<|suffix|>", "<|middle|>"),
)
_SUFFIX_FIRST_NAMES = ("[PREFIX]", "[SUFFIX]")
"""The tokens of Codestral, whose prompts have the end first and no token for the middle."""
_END_NAMES = frozenset(
    (
        *("<|endoftext|>", "<|file_separator|>", "<file_sep>", "<repo_name>", "<|cursor|>"),
        *("<EOT>", "▁<EOT>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
        *frozenset().union(*FILL_ENDS.values()),
    )
)
"""Tokens that end the middle: of a text, of a file, and of the files of a repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillTokens:
    """The tokens of a prompt for the middle of a text."""

    prefix_id: int
    suffix_id: int
    middle_id: int | None
    """None if the prompt has the end first, and then the beginning, which the answer continues."""
    end_ids: tuple[int, ...] = ()
    """Tokens that end the middle, besides those that end every answer of the model."""


def read_fill_tokens(model: Model) -> FillTokens | None:
    """Return the tokens of the model's files, or None for a model that cannot fill."""
    found = find_fill_tokens(*read_token_names(model))
    return found if found and all(0 <= each < model.config.vocab_size for each in found.end_ids) else None


def read_token_names(model: Model) -> tuple[Mapping[str, int], Mapping[str, Any]]:
    """Return the ids of all tokens by name, and the metadata of a GGUF file; there are none in a checkpoint."""
    if model.format is not ModelFormat.GGUF:
        return checkpoint_ids_by_name(model.path), {}
    with GGUFFile(model.path) as file:
        metadata = token_metadata(file)
    return {text: token_id for token_id, text in enumerate(read_tokens(metadata).texts)}, metadata


def find_fill_tokens(ids: Mapping[str, int], metadata: Mapping[str, Any] = MappingProxyType({})) -> FillTokens | None:
    """Return the tokens that a GGUF file's metadata name, or else those of a family that `ids` has by name."""
    named = [[metadata.get(PREFIX + key) for key in keys] for keys in _GGUF_KEYS]
    by_name = [[ids.get(name) for name in names] for names in _NAMES]
    prefix_id, suffix_id, middle_id = next((each for each in (*named, *by_name) if _are_ids(each)), (None, None, None))
    if middle_id is None:
        prefix_id, suffix_id = (ids.get(name) for name in _SUFFIX_FIRST_NAMES)
    if prefix_id is None or suffix_id is None:
        return None
    # A marker of another gap ends the middle too.
    markers = [each for each in (prefix_id, suffix_id, middle_id) if each is not None]
    ends = [*markers, *(ids[name] for name in sorted(_END_NAMES & ids.keys()))]
    return FillTokens(prefix_id=prefix_id, suffix_id=suffix_id, middle_id=middle_id, end_ids=tuple(dict.fromkeys(ends)))


def _are_ids(values: Sequence[Any]) -> bool:
    return all(type(value) is int for value in values)
