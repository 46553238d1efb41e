"""Conversion of texts and conversations to token ids. Long work runs in threads, so that other streams continue."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from gateway.errors import InvalidRequestError, PromptTooLongError
from gateway.prompts.chat_template import ChatTemplate, RenderedPrompt
from gateway.prompts.conversation import Conversation
from gateway.prompts.template_renderer import ChatTemplateError, rendering_threads
from pagoda.text.prompt_bound import PromptBound, TextTooLongError
from pagoda.text.tokenizer import SHORT_CHARACTERS, Tokenizer

MAX_PROMPT_TOKENS = 1 << 20
"""Maximum number of tokens of all texts of a request together."""

T = TypeVar("T")

# Separate threads, so that long texts delay only each other.
_encoding_threads = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1), thread_name_prefix="encode")


async def encode_texts(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    bound: PromptBound,
    *,
    field: str,
    add_special_tokens: bool,
    parse_control_tokens: bool = True,
) -> list[list[int]]:
    """Return each text's token ids.

    Raises PromptTooLongError for a text that exceeds `bound`; the error names `field`, which contained the texts.
    """

    def encode_all() -> list[list[int]]:
        encoded: list[list[int]] = []
        room = max(MAX_PROMPT_TOKENS, bound.max_tokens)
        for text in texts:
            encoded.append(
                tokenizer.encode(
                    text, add_special_tokens=add_special_tokens, parse_control_tokens=parse_control_tokens, bound=bound
                )
            )
            room -= len(encoded[-1])
            if room < 0:
                raise InvalidRequestError(
                    f"The prompts in `{field}` may have at most {MAX_PROMPT_TOKENS} tokens together; send fewer per request.",
                    param=field,
                )
        return encoded

    return await _encode_aside(encode_all, sum(map(len, texts)), field)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedConversation:
    """A conversation as text and in tokens."""

    prompt: RenderedPrompt
    token_ids: Sequence[int]


async def encode_conversation(
    template: ChatTemplate, conversation: Conversation, bound: PromptBound
) -> EncodedConversation:
    """Return the rendered conversation and its token ids.

    Rendering always runs in another thread, because its cost is not known in advance.
    """
    render = partial(template.render_prompt, conversation)
    try:
        prompt = await asyncio.get_running_loop().run_in_executor(rendering_threads, render)
    except ChatTemplateError as error:
        raise InvalidRequestError(f"The messages cannot be rendered as a prompt: {error}", param="messages") from None
    token_ids = await _encode_aside(partial(template.encode_rendered, prompt, bound), len(prompt.text), "messages")
    return EncodedConversation(prompt=prompt, token_ids=token_ids)


async def _encode_aside(encode: Callable[[], T], num_characters: int, field: str) -> T:
    try:
        if num_characters <= SHORT_CHARACTERS:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(_encoding_threads, encode)
    except TextTooLongError as error:
        raise PromptTooLongError(
            num_prompt_tokens=error.max_tokens, window=error.max_tokens, param=field, or_more=True
        ) from None
