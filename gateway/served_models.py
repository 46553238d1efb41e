"""The models that this gateway can turn text into tokens for, and what the scheduler says about them.

Knows nothing about dialects and requests.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any

from gateway.chat_template import ChatTemplate, ChatTemplateError
from gateway.errors import ErrorKind, GatewayError, InvalidRequestError, unavailable
from gateway.inference import ModelInfo
from gateway.schedulers import Schedulers
from gateway.template_variables import template_variables
from gateway.tokenizer import Tokenizer
from pagoda.models.catalogue import find_entry, with_tag
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings, read_settings

logger = logging.getLogger(__name__)

# Tokenizing this much text takes about a millisecond; more of it would hold up everyone's streams.
MAX_INLINE_CHARACTERS = 8192
MODEL_INFO_TTL_S = 1.0


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


class ServedModels:
    def __init__(self, models: Sequence[ServedModel], schedulers: Schedulers) -> None:
        self._models = tuple(models)
        self._schedulers = schedulers
        self._infos: Mapping[str, ModelInfo] = {}
        self._infos_expire_at = float("-inf")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def find(self, name: str | None) -> ServedModel:
        """By name, in any case and with or without the tag `latest`; None is the only model there is."""
        if name is None and len(self._models) == 1:
            return self._models[0]
        wanted = {with_tag(name or "").lower(), _name_behind_alias(name or "")}
        for model in self._models:
            if model.tagged_name.lower() in wanted:
                return model
        served = ", ".join(f"`{model.name}`" for model in self._models)
        raise GatewayError(
            ErrorKind.NOT_FOUND, f"The model `{name or ''}` does not exist. Served here: {served}.", param="model"
        )

    def serves(self, name: str) -> bool:
        try:
            self.find(name)
        except GatewayError:
            return False
        return True

    async def info(self, model: ServedModel) -> ModelInfo:
        """What the scheduler says of the model; UNAVAILABLE while no worker serves it.

        While a lost scheduler and its workers may soon be back, what was known before.
        """
        known = self._infos.get(model.name)
        if time.monotonic() < self._infos_expire_at and known is not None and known.is_served:
            return known
        try:
            await self.refresh()
        except GatewayError:
            if known is None or not self._schedulers.is_recovering:
                raise
            return known
        info = self._infos.get(model.name)
        if info is not None and info.is_served:
            return info
        if known is not None and self._schedulers.is_recovering:
            self._infos = {**self._infos, model.name: known}
            return known
        raise unavailable(f"No worker serves the model `{model.name}` at the moment.")

    async def info_if_any(self, model: ServedModel) -> ModelInfo | None:
        """For listings, which are right without a worker too."""
        try:
            return await self.info(model)
        except GatewayError:
            return None

    async def in_memory(self) -> list[tuple[ServedModel, ModelInfo]]:
        """As it is now. None while the scheduler cannot be asked."""
        try:
            await self.refresh()
        except GatewayError:
            return []
        infos = [(model, self._infos.get(model.name)) for model in self._models]
        return [(model, info) for model, info in infos if info is not None and info.num_workers]

    async def refresh(self) -> None:
        self._infos = {info.name: info for info in await self._schedulers.list_models()}
        self._infos_expire_at = time.monotonic() + MODEL_INFO_TTL_S


def _name_behind_alias(name: str) -> str | None:
    try:
        entry = find_entry(name)
    except ModelNotFoundError:
        return None
    return None if entry is None else entry.name
