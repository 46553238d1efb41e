"""The prompt for a text between a beginning and an end, for a model that can fill.

Names of special tokens in both texts stay text, because source code may contain them.
"""

from collections.abc import Sequence

from gateway.prompts.prompt_encoding import encode_texts
from pagoda.models.formats.fill_tokens import FillTokens
from pagoda.text.prompt_bound import PromptBound
from pagoda.text.tokenizer import Tokenizer

_LINE_END = "\n"


async def encode_fill(
    tokenizer: Tokenizer, fill: FillTokens, beginning: str | Sequence[int], end: str, bound: PromptBound
) -> list[int]:
    """Return the prompt. Raises PromptTooLongError, which names the field, if a text exceeds `bound`."""
    # A vocabulary may put a space in front of a text. At the end's beginning it would be a part of the text.
    led = tokenizer.encode(_LINE_END, add_special_tokens=False)
    lead = _LINE_END if len(led) > 1 else ""
    prefix = await _encode(tokenizer, beginning, bound, "prompt") if isinstance(beginning, str) else beginning
    suffix = await _encode(tokenizer, lead + end, bound, "suffix")
    if lead and suffix[: len(led)] == led:
        suffix = suffix[len(led) :]
    if fill.middle_id is None:
        return tokenizer.begun([fill.suffix_id, *suffix, fill.prefix_id, *prefix])
    return tokenizer.begun([fill.prefix_id, *prefix, fill.suffix_id, *suffix, fill.middle_id])


async def _encode(tokenizer: Tokenizer, text: str, bound: PromptBound, field: str) -> list[int]:
    (ids,) = await encode_texts(
        tokenizer, [text], bound, field=field, add_special_tokens=False, parse_control_tokens=False
    )
    return ids
