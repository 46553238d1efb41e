"""Messages rendered by a chat template, as text and as token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.conversation import ChatEnding, Conversation


def rendered_chat(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    ending: ChatEnding = ChatEnding.BEGUN,
    thinks: bool | None = None,
) -> str:
    """Return the text without the marks of special tokens in messages."""
    prompt = template.render_prompt(Conversation(messages=messages, ending=ending, thinks=thinks))
    return prompt.text.replace(prompt.mark, "")


def encoded_chat(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    ending: ChatEnding = ChatEnding.BEGUN,
    thinks: bool | None = None,
) -> list[int]:
    return template.encode_rendered(
        template.render_prompt(Conversation(messages=messages, ending=ending, thinks=thinks))
    )
