"""The truncation of prompts that are longer than the window.

A chat loses whole turns, oldest first, but neither its system messages nor its last message. If the last turn alone is too long,
it loses its oldest tool calls, each with its results. Other prompts lose tokens.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.chat.prepare import ChatPrompt
from gateway.errors import PromptTooLongError

Message = Mapping[str, Any]
Encode = Callable[[Sequence[Message]], Awaitable[ChatPrompt]]


def dropped_messages(number: int) -> str:
    """Return how many messages a prompt has lost, for a response header: `6 messages`. Empty for none."""
    return f"{number} message{'s' if number > 1 else ''}" if number else ""


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


async def encode_latest(
    messages: Sequence[Message], encode: Encode, window: Window, *, field: str = "messages"
) -> tuple[ChatPrompt, int]:
    """Return the prompt of as many of the latest turns as fit, and the number of dropped messages.

    Raise PromptTooLongError that names `field` if the last message alone does not fit. `encode` is called at most about
    log2(messages) + 2 times.
    """
    prompt = await _encoded(messages, encode)
    if prompt is not None and window.fits(prompt.token_ids):
        return prompt, 0
    latest: Sequence[Message] = messages
    if cuts := _cuts(messages):
        low, high = 0, len(cuts) - 1
        while low < high:
            middle = (low + high) // 2
            prompt = await _encoded(cuts[middle].of(messages), encode)
            if prompt is not None and len(prompt.token_ids) <= window.num_left:
                high = middle
            else:
                low = middle + 1
        latest = cuts[low].of(messages)
        prompt = await _encoded(latest, encode)
    if prompt is None or not window.fits(prompt.token_ids):
        num_prompt_tokens = window.num_tokens if prompt is None else len(prompt.token_ids)
        raise PromptTooLongError(
            num_prompt_tokens=num_prompt_tokens, window=window.num_tokens, param=field, or_more=prompt is None
        )
    return prompt, len(messages) - len(latest)


def cut_beginning(prompt: Sequence[int], window: Window, num_kept: int) -> Sequence[int]:
    """Return the prompt cut to the window. Tokens are removed after the first `num_kept`."""
    if window.fits(prompt):
        return prompt
    num_last = max(1, window.num_left - num_kept)
    return [*prompt[:num_kept], *prompt[-num_last:]]


@dataclass(frozen=True, slots=True)
class _Cut:
    """A beginning of the messages that may be dropped: all before `start`, except system messages and the one at `question`."""

    start: int
    question: int | None = None

    def of(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages that are left."""
        return [
            message
            for index, message in enumerate(messages)
            if index >= self.start or index == self.question or message["role"] == "system"
        ]


def _cuts(messages: Sequence[Message]) -> list[_Cut]:
    """Return the possible cuts, the smallest first.

    A user's message and all that answers it form a turn, since many templates need them in pairs. In the last turn, calls and their
    results form rounds, and the message that they answer stays.
    """
    roles = [message["role"] for message in messages]
    first = next((index for index, role in enumerate(roles) if role != "system"), 0)
    turns = [index for index, role in enumerate(roles) if role == "user" and index > first]
    last = turns[-1] if turns else first
    rounds = [
        index for index in range(last + 2, len(roles)) if roles[index] == "assistant" and roles[index - 1] == "tool"
    ]
    question = last if "user" in roles[last : last + 1] else None
    return [*map(_Cut, turns), *(_Cut(start, question) for start in rounds)]


async def _encoded(messages: Sequence[Message], encode: Encode) -> ChatPrompt | None:
    """Return the prompt, or None if the messages are too long to be tokenized."""
    try:
        return await encode(messages)
    except PromptTooLongError:
        return None
