"""From texts and conversations to token ids. What takes long is done in threads, so that the streams of others go on."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from gateway.errors import InvalidRequestError, PromptTooLongError
from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.conversation import Conversation
from gateway.prompts.template_renderer import ChatTemplateError, rendering_threads
from pagoda.text.prompt_bound import PromptBound, TextTooLongError
from pagoda.text.tokenizer import SHORT_CHARACTERS, Tokenizer

MAX_PROMPT_TOKENS = 1 << 20
"""Of all texts of a request together."""

T = TypeVar("T")

# Of their own: long texts wait for each other, and nothing else waits for them.
_encoding_threads = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1), thread_name_prefix="encode")


async def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], bound: PromptBound, *, field: str, add_special_tokens: bool
) -> list[list[int]]:
    """Return each text's token ids.

    Raises PromptTooLongError for a text that `bound` refuses, and names `field` as the one that the texts came in.
    """

    def encode_all() -> list[list[int]]:
        encoded: list[list[int]] = []
        room = max(MAX_PROMPT_TOKENS, bound.max_tokens)
        for text in texts:
            encoded.append(tokenizer.encode(text, add_special_tokens=add_special_tokens, bound=bound))
            room -= len(encoded[-1])
            if room < 0:
                raise InvalidRequestError(
                    f"{field}: the prompts have more than {MAX_PROMPT_TOKENS} tokens together; send fewer at a time",
                    param=field,
                )
        return encoded

    return await _encode_aside(encode_all, sum(map(len, texts)), field)


async def encode_conversation(template: ChatTemplate, conversation: Conversation, bound: PromptBound) -> list[int]:
    """Return the token ids of the conversation as the template writes it.

    Rendering is always done elsewhere: what it costs is not known before.
    """
    render = partial(template.render_prompt, conversation)
    try:
        prompt = await asyncio.get_running_loop().run_in_executor(rendering_threads, render)
    except ChatTemplateError as error:
        raise InvalidRequestError(f"The messages cannot be a prompt: {error}", param="messages") from None
    return await _encode_aside(partial(template.encode_rendered, prompt, bound), len(prompt.text), "messages")


async def _encode_aside(encode: Callable[[], T], num_characters: int, field: str) -> T:
    try:
        if num_characters <= SHORT_CHARACTERS:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(_encoding_threads, encode)
    except TextTooLongError as error:
        raise PromptTooLongError(
            num_prompt_tokens=error.max_tokens, window=error.max_tokens, param=field, or_more=True
        ) from None
