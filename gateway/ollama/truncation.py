"""The truncation of prompts that are longer than the window, as Ollama's API defines it.

A chat loses whole turns, oldest first, but neither its system messages nor its last message. Other prompts lose tokens.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import PromptTooLongError

Message = Mapping[str, Any]
Encode = Callable[[Sequence[Message]], Awaitable[list[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The number of tokens that a model can process, and the limit of the answer."""

    num_tokens: int
    """Maximum number of tokens of prompt and answer together."""
    max_tokens: int | None
    """Maximum number of tokens of the answer; None for no limit."""

    def fits(self, prompt: Sequence[int]) -> bool:
        """Return whether the prompt leaves room for at least one token of the answer."""
        return len(prompt) < self.num_tokens

    @property
    def num_left(self) -> int:
        """Number of tokens to keep of a prompt that does not fit.

        The answer's limit is left free, but at most half of the window; without a limit, a quarter.
        """
        room = self.num_tokens // 4 if self.max_tokens is None else min(self.max_tokens, self.num_tokens // 2)
        return self.num_tokens - max(1, room)


async def encode_latest(messages: Sequence[Message], encode: Encode, window: Window) -> tuple[list[int], int]:
    """Return the tokens of as many of the latest turns as fit, and the number of dropped messages.

    Raise PromptTooLongError if the last turn alone does not fit. `encode` is called at most about log2(turns) + 2 times.
    """
    prompt = await _encoded(messages, encode)
    if prompt is not None and window.fits(prompt):
        return prompt, 0
    latest: Sequence[Message] = messages
    if starts := _later_turns(messages):
        low, high = 0, len(starts) - 1
        while low < high:
            middle = (low + high) // 2
            prompt = await _encoded(_latest(messages, starts[middle]), encode)
            if prompt is not None and len(prompt) <= window.num_left:
                high = middle
            else:
                low = middle + 1
        latest = _latest(messages, starts[low])
        prompt = await _encoded(latest, encode)
    if prompt is None or not window.fits(prompt):
        num_prompt_tokens = window.num_tokens if prompt is None else len(prompt)
        raise PromptTooLongError(
            num_prompt_tokens=num_prompt_tokens, window=window.num_tokens, param="messages", or_more=prompt is None
        )
    return prompt, len(messages) - len(latest)


def cut_beginning(prompt: Sequence[int], window: Window, num_kept: int) -> Sequence[int]:
    """Return the prompt cut to the window. Tokens are removed after the first `num_kept`."""
    if window.fits(prompt):
        return prompt
    num_last = max(1, window.num_left - num_kept)
    return [*prompt[:num_kept], *prompt[-num_last:]]


def _later_turns(messages: Sequence[Message]) -> list[int]:
    """Return the indices at which turns begin, except the first turn.

    A user's message and its answer form a turn, since many templates need them in pairs.
    """
    first = next((index for index, message in enumerate(messages) if message["role"] != "system"), 0)
    return [index for index, message in enumerate(messages) if message["role"] == "user" and index > first]


def _latest(messages: Sequence[Message], start: int) -> list[Message]:
    return [message for index, message in enumerate(messages) if index >= start or message["role"] == "system"]


async def _encoded(messages: Sequence[Message], encode: Encode) -> list[int] | None:
    """Return the tokens, or None if the messages are too long to be tokenized."""
    try:
        return await encode(messages)
    except PromptTooLongError:
        return None
