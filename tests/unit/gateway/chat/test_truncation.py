"""Tests of chats longer than the window: they lose only their oldest turns, and are encoded only a few times."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.prepare import ChatPrompt
from gateway.chat.truncation import Message, Window, cut_beginning, encode_latest
from gateway.errors import PromptTooLongError
from gateway.prompts.reasoning_start import ReasoningStart
from pagoda.models.output_formats.description import OutputFormat

FORMAT = OutputFormat(name="none")


class Encoder:
    """An encoder with one token per character and a few per message. It refuses a text with more than `most` tokens."""

    def __init__(self, most: int = 10**9) -> None:
        self.most = most
        self.encoded: list[Sequence[Message]] = []

    async def __call__(self, messages: Sequence[Message]) -> ChatPrompt:
        self.encoded.append(messages)
        size = sum(len(message["content"]) + 3 for message in messages)
        if size > self.most:
            raise PromptTooLongError(num_prompt_tokens=self.most, window=self.most, param="messages", or_more=True)
        return ChatPrompt(token_ids=[7] * size, reasoning=ReasoningStart.NONE, text="", format=FORMAT)


def chat(*roles: str) -> list[Message]:
    return [{"role": role, "content": f"{index}"} for index, role in enumerate(roles)]


def conversations() -> st.SearchStrategy[list[Message]]:
    role = st.sampled_from(["system", "user", "assistant", "tool"])
    message = st.builds(lambda role, size: {"role": role, "content": "x" * size}, role, st.integers(0, 60))
    return st.lists(message, min_size=1, max_size=40)


@given(
    messages=conversations(),
    num_tokens=st.integers(1, 600),
    max_tokens=st.none() | st.integers(1, 600),
    most=st.sampled_from([40, 200, 10**9]),
)
@pytest.mark.asyncio
async def test_what_is_left(messages: list[Message], num_tokens: int, max_tokens: int | None, most: int) -> None:
    window, encode = Window(num_tokens=num_tokens, max_tokens=max_tokens), Encoder(most)
    try:
        prompt, num_dropped = await encode_latest(messages, encode, window)
    except PromptTooLongError:
        assert encode.encoded[-1][-1] == messages[-1]
        return
    kept = encode.encoded[-1]
    assert len(prompt.token_ids) < num_tokens
    assert len(kept) == len(messages) - num_dropped
    assert [each for each in kept if each["role"] == "system"] == [
        each for each in messages if each["role"] == "system"
    ]
    assert kept[-1] == messages[-1]
    if num_dropped:
        others = [each for each in messages if each["role"] != "system"]
        rest = [each for each in kept if each["role"] != "system"]
        if rest == others[num_dropped:] and rest[0]["role"] == "user":
            return  # whole turns
        # The last turn alone is too long. Its question, if it has one, and its latest calls with their results are left.
        question = [rest.pop(0)] if rest[0]["role"] == "user" else []
        assert rest == others[len(others) - len(rest) :] and rest[0]["role"] == "assistant"
        assert others[len(others) - len(rest) - 1]["role"] == "tool"
        assert question == [each for each in others if each["role"] == "user"][-1:]
    else:
        assert list(kept) == messages
    assert len(encode.encoded) <= math.log2(len(messages)) + 3


@pytest.mark.asyncio
async def test_no_more_is_dropped_than_makes_room() -> None:
    messages = chat("system", *["user", "assistant"] * 10, "user")
    window, encode = Window(num_tokens=60, max_tokens=10), Encoder()
    prompt, num_dropped = await encode_latest(messages, encode, window)
    assert len(prompt.token_ids) <= 50
    longer = [messages[0], *messages[1 + num_dropped - 2 :]]
    assert len((await Encoder()(longer)).token_ids) > 50


@pytest.mark.asyncio
async def test_a_chat_that_fits_is_encoded_once() -> None:
    encode = Encoder()
    messages = chat("user", "assistant", "user")
    prompt, num_dropped = await encode_latest(messages, encode, Window(num_tokens=13, max_tokens=100))
    assert (prompt.token_ids, num_dropped) == ([7] * 12, 0)
    assert len(encode.encoded) == 1


@pytest.mark.asyncio
async def test_an_answer_that_has_begun_keeps_its_question() -> None:
    messages = chat("user", "assistant", "user", "assistant")
    prompt, num_dropped = await encode_latest(messages, Encoder(), Window(num_tokens=12, max_tokens=4))
    assert (len(prompt.token_ids), num_dropped) == (8, 2)


@pytest.mark.asyncio
async def test_a_call_stays_with_its_results() -> None:
    earlier, turn = chat("system", "user", "assistant"), chat("user", *["assistant", "tool", "tool"] * 3)
    encode = Encoder()
    prompt, num_dropped = await encode_latest([*earlier, *turn], encode, Window(num_tokens=44, max_tokens=4))
    assert (len(prompt.token_ids), num_dropped) == (32, 5)
    assert encode.encoded[-1] == [earlier[0], turn[0], *turn[4:]]


@given(size=st.integers(1, 300), num_tokens=st.integers(2, 200), max_tokens=st.none() | st.integers(1, 200))
def test_a_prompt_without_turns_loses_tokens(size: int, num_tokens: int, max_tokens: int | None) -> None:
    window, prompt = Window(num_tokens=num_tokens, max_tokens=max_tokens), list(range(size))
    cut = list(cut_beginning(prompt, window, 1))
    if size < num_tokens:
        assert cut == prompt
    else:
        assert cut[0] == 0 and cut[1:] == prompt[size - len(cut) + 1 :]
        assert len(cut) <= max(2, window.num_left)
