"""What Ollama's API does with a prompt that outgrows the window: it drops the oldest, unless the request forbids it.

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
    num_tokens: int
    """For prompt and answer."""
    max_tokens: int | None
    """The answer's own limit, if it has one."""

    def fits(self, prompt: Sequence[int]) -> bool:
        """Return whether the prompt leaves room for a token."""
        return len(prompt) < self.num_tokens

    @property
    def num_left(self) -> int:
        """How many tokens are kept of a prompt that does not fit: the answer gets what it asks for, up to half of the window."""
        room = self.num_tokens // 4 if self.max_tokens is None else min(self.max_tokens, self.num_tokens // 2)
        return self.num_tokens - max(1, room)


async def encode_latest(messages: Sequence[Message], encode: Encode, window: Window) -> tuple[list[int], int]:
    """Return the tokens of as many of the latest turns as fit, and how many messages were dropped.

    Raises PromptTooLongError where the last turn alone does not fit. Encodes at most about log2(turns) + 2 times.
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
    """Return the prompt without what is too much, which goes from behind its first `num_kept` tokens."""
    if window.fits(prompt):
        return prompt
    num_last = max(1, window.num_left - num_kept)
    return [*prompt[:num_kept], *prompt[-num_last:]]


def _later_turns(messages: Sequence[Message]) -> list[int]:
    """Return where turns begin, but the first: a user's message and its answer belong together, as many templates demand."""
    first = next((index for index, message in enumerate(messages) if message["role"] != "system"), 0)
    return [index for index, message in enumerate(messages) if message["role"] == "user" and index > first]


def _latest(messages: Sequence[Message], start: int) -> list[Message]:
    return [message for index, message in enumerate(messages) if index >= start or message["role"] == "system"]


async def _encoded(messages: Sequence[Message], encode: Encode) -> list[int] | None:
    """Return the tokens, or None for what is so long that it is not tokenized."""
    try:
        return await encode(messages)
    except PromptTooLongError:
        return None
