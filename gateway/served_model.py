"""A model that this gateway can turn text into tokens for: its tokenizer, its template and its own settings.

Knows nothing about dialects, requests and the scheduler.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any

from gateway.chat_template import ChatTemplate, ChatTemplateError
from gateway.errors import InvalidRequestError
from gateway.template_variables import template_variables
from gateway.tokenizer import Tokenizer
from pagoda.models.catalogue import with_tag
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings, read_settings

logger = logging.getLogger(__name__)

# Tokenizing this much text takes about a millisecond; more of it would hold up everyone's streams.
MAX_INLINE_CHARACTERS = 8192


class ChatEnding(Enum):
    """What a conversation ends with, as a prompt."""

    BEGUN = "the beginning of an answer"
    AS_IS = "its final message"
    CONTINUED = "its final message, open to go on"


class ServedModel:
    """`chat_template` is None for a base model, which completes text but does not chat."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate | None,
        settings: ModelSettings,
        special_texts: Mapping[str, str],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.settings = settings
        self._special_texts = special_texts

    @classmethod
    def load(cls, model: Model) -> "ServedModel":
        tokenizer, settings = Tokenizer.load(model), read_settings(model)
        special_texts = template_variables(model, tokenizer)
        try:
            if settings.template:
                chat_template = ChatTemplate(settings.template, special_texts, tokenizer)
            else:
                chat_template = ChatTemplate.load(model, tokenizer)
        except ChatTemplateError as error:
            logger.warning("model cannot chat", extra={"model": model.name, "reason": str(error)})
            return cls(model, tokenizer, None, settings, special_texts)
        return cls(model, tokenizer, chat_template, settings, special_texts)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def tagged_name(self) -> str:
        """As Ollama writes it: a name without a tag has the tag `latest`."""
        return with_tag(self.model.name)

    async def encode_text(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if len(text) <= MAX_INLINE_CHARACTERS:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)

    def template(self, source: str) -> ChatTemplate:
        """Another template for this model; ChatTemplateError where it is not valid."""
        return ChatTemplate(source, self._special_texts, self.tokenizer)

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """With the model's own opening messages in front, and its system prompt where the conversation has none."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        system = (
            [{"role": "system", "content": self.settings.system}] if self.settings.system and not has_system else []
        )
        return [*system, *self.settings.messages, *messages]

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        ending: ChatEnding = ChatEnding.BEGUN,
        template: ChatTemplate | None = None,
    ) -> list[int]:
        """With the model's own template, unless there is another for this request."""
        template = template or self.chat_template
        if template is None:
            raise InvalidRequestError(
                f"The model `{self.name}` has no chat template, so it cannot chat; use completions.", param="messages"
            )
        encode = partial(
            template.encode,
            messages,
            add_generation_prompt=ending is ChatEnding.BEGUN,
            continue_final_message=ending is ChatEnding.CONTINUED,
        )
        num_characters = sum(len(message["content"]) for message in messages)
        try:
            return encode() if num_characters <= MAX_INLINE_CHARACTERS else await asyncio.to_thread(encode)
        except ChatTemplateError as error:
            raise InvalidRequestError(f"The chat template refuses these messages: {error}", param="messages") from None
