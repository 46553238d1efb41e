"""A model that this gateway can turn text into tokens for: its tokenizer, its template and its own settings.

Knows nothing about dialects, requests and the scheduler.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from gateway.errors import InvalidRequestError, PromptTooLongError
from gateway.prompts.chat_template import ChatTemplate, NoTemplateError, template_variables
from gateway.prompts.template_renderer import ChatTemplateError, rendering_threads
from pagoda.models.catalogue import with_tag
from pagoda.models.errors import ModelFormatError
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings, read_settings
from pagoda.models.sampling_defaults import NO_DEFAULTS, ModelDefaults, SamplingPolicy, as_json
from pagoda.text.prompt_bound import Keep, PromptBound, TextTooLongError
from pagoda.text.tokenizer import SHORT_CHARACTERS, Tokenizer

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_REQUEST_TEMPLATE_CHARACTERS = 1 << 16
"""Of a template that comes with a request; those of models may have more (template_renderer.py)."""
MAX_PROMPT_TOKENS = 1 << 20
"""Of all texts of a request together."""

# Of their own: long texts wait for each other, and nothing else waits for them.
_encoding_threads = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1), thread_name_prefix="encode")


class ChatEnding(Enum):
    """What a conversation ends with, as a prompt."""

    BEGUN = "the beginning of an answer"
    AS_IS = "its final message"
    CONTINUED = "its final message, open to go on"


class ServedModel:
    """`chat_template` is None for a base model, which completes text but does not chat.

    It is None too for a model whose template is not valid; then `template_problem` says why.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate | None,
        settings: ModelSettings,
        special_texts: Mapping[str, str],
        defaults: ModelDefaults = NO_DEFAULTS,
        template_problem: str | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.settings = settings
        self.defaults = defaults
        self.template_problem = template_problem
        self._special_texts = special_texts

    @classmethod
    def load(cls, model: Model, policy: SamplingPolicy) -> "ServedModel":
        tokenizer, settings = Tokenizer.load(model), read_settings(model)
        defaults = _logged(model, policy.defaults_of(model, settings))
        special_texts = template_variables(model, tokenizer)
        try:
            chat_template = _chat_template(model, settings, special_texts, tokenizer)
        except NoTemplateError:
            logger.info("model has no chat template", extra={"model": model.name})
            return cls(model, tokenizer, None, settings, special_texts, defaults)
        except ChatTemplateError as error:
            logger.warning("model cannot chat", extra={"model": model.name, "reason": str(error)})
            return cls(model, tokenizer, None, settings, special_texts, defaults, str(error))
        return cls(model, tokenizer, chat_template, settings, special_texts, defaults)

    @staticmethod
    def check(model: Model, settings: ModelSettings) -> None:
        """Raise ModelFormatError with the reason why texts or chats could not be made into tokens for the model."""
        tokenizer = Tokenizer.load(model)
        special_texts = template_variables(model, tokenizer)
        try:
            _chat_template(model, settings, special_texts, tokenizer)
        except NoTemplateError:
            pass
        except ChatTemplateError as error:
            raise ModelFormatError(f"the chat template cannot be used: {error}") from None

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def has_no_template(self) -> bool:
        """Whether it is a base model, rather than one whose template is not valid."""
        return self.chat_template is None and self.template_problem is None

    @property
    def tagged_name(self) -> str:
        """As Ollama writes it: a name without a tag has the tag `latest`."""
        return with_tag(self.model.name)

    @property
    def max_window(self) -> int:
        """In tokens. A worker's window may be shorter, never longer."""
        return self.model.config.max_position

    async def encode_text(
        self, text: str, *, add_special_tokens: bool = True, max_tokens: int | None = None, keep: Keep = Keep.ALL
    ) -> list[int]:
        """Return the token ids of `text`, or raise PromptTooLongError when it has certainly more than `max_tokens`.

        The default for those is the model's window.
        """
        (ids,) = await self.encode_texts(
            [text], add_special_tokens=add_special_tokens, max_tokens=max_tokens, keep=keep
        )
        return ids

    async def encode_texts(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        max_tokens: int | None = None,
        keep: Keep = Keep.ALL,
    ) -> list[list[int]]:
        """Return each text's token ids; `encode_text` says what is refused."""
        bound = PromptBound(max_tokens=max_tokens or self.max_window, keep=keep)
        encode = partial(self.tokenizer.encode, add_special_tokens=add_special_tokens, bound=bound)

        def encode_all() -> list[list[int]]:
            encoded: list[list[int]] = []
            room = max(MAX_PROMPT_TOKENS, bound.max_tokens)
            for text in texts:
                encoded.append(encode(text))
                room -= len(encoded[-1])
                if room < 0:
                    raise InvalidRequestError(
                        f"prompt: the prompts have more than {MAX_PROMPT_TOKENS} tokens together; send fewer at a time",
                        param="prompt",
                    )
            return encoded

        return await _run(encode_all, sum(map(len, texts)), "prompt")

    async def template(self, source: str) -> ChatTemplate:
        """Compile another template for this model, which came with a request; ChatTemplateError where it is not valid."""
        if len(source) > MAX_REQUEST_TEMPLATE_CHARACTERS:
            raise ChatTemplateError(
                f"it has {len(source)} characters; at most {MAX_REQUEST_TEMPLATE_CHARACTERS} are allowed in a request"
            )
        compiled = partial(ChatTemplate, source, self._special_texts, self.tokenizer, is_foreign=True)
        return await asyncio.get_running_loop().run_in_executor(rendering_threads, compiled)

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
        *,
        keep: Keep = Keep.ALL,
        thinks: bool | None = None,
    ) -> list[int]:
        """Return the prompt's token ids, with the model's own template unless there is another for this request.

        Rendering is always done elsewhere: what it costs is not known before.
        """
        template = template or self._own_template()
        if thinks and not template.can_think:
            raise no_thinking(self.name)
        render = partial(
            template.prompt,
            messages,
            add_generation_prompt=ending is ChatEnding.BEGUN,
            continue_final_message=ending is ChatEnding.CONTINUED,
            thinks=thinks,
        )
        try:
            prompt = await asyncio.get_running_loop().run_in_executor(rendering_threads, render)
        except ChatTemplateError as error:
            raise InvalidRequestError(f"The messages cannot be a prompt: {error}", param="messages") from None
        bound = PromptBound(max_tokens=self.max_window, keep=keep)
        return await _run(lambda: template.encode_prompt(prompt, bound=bound), len(prompt.text), "messages")

    def _own_template(self) -> ChatTemplate:
        if self.chat_template is not None:
            return self.chat_template
        if self.template_problem is not None:
            raise InvalidRequestError(
                f"The model `{self.name}` cannot chat: {self.template_problem}.", param="messages"
            )
        raise InvalidRequestError(
            f"The model `{self.name}` has no chat template, so it cannot chat; use completions.", param="messages"
        )


def no_thinking(name: str) -> InvalidRequestError:
    """The error for a client that asks a model to think which cannot be told to."""
    return InvalidRequestError(
        f"`{name}` does not support thinking: its chat template does not ask for it. Leave think or enable_thinking out, "
        f"or send false.",
        param="chat_template_kwargs",
    )


async def _run(encode: Callable[[], T], num_characters: int, field: str) -> T:
    """What takes long is done in a thread, so that the streams of others go on."""
    try:
        if num_characters <= SHORT_CHARACTERS:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(_encoding_threads, encode)
    except TextTooLongError as error:
        raise PromptTooLongError(
            num_prompt_tokens=error.max_tokens, window=error.max_tokens, param=field, or_more=True
        ) from None


def _chat_template(
    model: Model, settings: ModelSettings, special_texts: Mapping[str, str], tokenizer: Tokenizer
) -> ChatTemplate:
    """Return the template of the model's settings, else that of its files; raises what ChatTemplate.load raises."""
    if settings.template:
        return ChatTemplate(settings.template, special_texts, tokenizer)
    return ChatTemplate.load(model, tokenizer)


def _logged(model: Model, defaults: ModelDefaults) -> ModelDefaults:
    """Once for each time that a model is read: what its requests sample with by default, and what of its files cannot be."""
    logger.info("sampling defaults", extra={"model": model.name, "defaults": as_json(defaults.parameters)})
    for reason in defaults.ignored:
        logger.warning("sampling value ignored", extra={"model": model.name, "reason": reason})
    return defaults
