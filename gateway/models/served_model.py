"""A model that this gateway can turn text into tokens for: its tokenizer, its template and its own settings."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.errors import InvalidRequestError
from gateway.prompts.chat_template import ChatTemplate, NoTemplateError, template_variables
from gateway.prompts.conversation import Conversation
from gateway.prompts.prompt_encoding import encode_conversation, encode_texts
from gateway.prompts.template_renderer import ChatTemplateError, rendering_threads
from pagoda.models.catalogue import with_tag
from pagoda.models.errors import ModelFormatError
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings, read_settings
from pagoda.models.sampling_defaults import ModelDefaults, SamplingPolicy, as_json
from pagoda.text.prompt_bound import Keep, PromptBound
from pagoda.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

MAX_REQUEST_TEMPLATE_CHARACTERS = 1 << 16
"""Of a template that comes with a request; those of models may have more (template_renderer.py)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedModel:
    model: Model
    tokenizer: Tokenizer
    settings: ModelSettings
    defaults: ModelDefaults
    special_texts: Mapping[str, str]
    """What templates know as `bos_token` and its like."""
    chat_template: ChatTemplate | None = None
    """None for a base model, which completes text but does not chat, and for a model whose template is not valid."""
    template_problem: str | None = None
    """Why the template is not valid."""

    @classmethod
    def load(cls, model: Model, policy: SamplingPolicy) -> "ServedModel":
        tokenizer, settings = Tokenizer.load(model), read_settings(model)
        defaults = _logged(model, policy.defaults_of(model, settings))
        special_texts = template_variables(model, tokenizer)
        chat_template = problem = None
        try:
            chat_template = _chat_template(model, settings, special_texts, tokenizer)
        except NoTemplateError:
            logger.info("model has no chat template", extra={"model": model.name})
        except ChatTemplateError as error:
            problem = str(error)
            logger.warning("model cannot chat", extra={"model": model.name, "reason": problem})
        return cls(
            model=model,
            tokenizer=tokenizer,
            settings=settings,
            defaults=defaults,
            special_texts=special_texts,
            chat_template=chat_template,
            template_problem=problem,
        )

    @staticmethod
    def check_model(model: Model, settings: ModelSettings) -> None:
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
        """The name as Ollama writes it: without a tag it has the tag `latest`."""
        return with_tag(self.model.name)

    @property
    def max_window(self) -> int:
        """The longest window, in tokens. A worker's may be shorter, never longer."""
        return self.model.config.max_position

    async def encode_text(
        self,
        text: str,
        *,
        field: str = "prompt",
        add_special_tokens: bool = True,
        max_tokens: int | None = None,
        keep: Keep = Keep.ALL,
    ) -> list[int]:
        """Return the token ids of `text`, or raise PromptTooLongError when it has certainly more than `max_tokens`.

        The default for those is the model's window. The error names `field`, which the text came in.
        """
        bound = PromptBound(max_tokens=max_tokens or self.max_window, keep=keep)
        (ids,) = await encode_texts(self.tokenizer, [text], bound, field=field, add_special_tokens=add_special_tokens)
        return ids

    async def encode_texts(
        self, texts: Sequence[str], *, field: str = "prompt", add_special_tokens: bool, keep: Keep = Keep.ALL
    ) -> list[list[int]]:
        """Return each text's token ids; `encode_text` says what is refused."""
        bound = PromptBound(max_tokens=self.max_window, keep=keep)
        return await encode_texts(self.tokenizer, texts, bound, field=field, add_special_tokens=add_special_tokens)

    def check_token_ids(self, token_ids: Iterable[int], field: str) -> None:
        """Raise InvalidRequestError for an id that the vocabulary does not have."""
        wrong, size = max(token_ids, default=0), self.tokenizer.vocab_size
        if wrong >= size:
            raise InvalidRequestError(
                f"{field}: token id {wrong} is out of range; the model's vocabulary has {size} tokens", param=field
            )

    async def compile_template(self, source: str) -> ChatTemplate:
        """Compile another template for this model, which came with a request; ChatTemplateError where it is not valid."""
        if len(source) > MAX_REQUEST_TEMPLATE_CHARACTERS:
            raise ChatTemplateError(
                f"it has {len(source)} characters; at most {MAX_REQUEST_TEMPLATE_CHARACTERS} are allowed in a request"
            )
        compiled = partial(ChatTemplate, source, self.special_texts, self.tokenizer, is_foreign=True)
        return await asyncio.get_running_loop().run_in_executor(rendering_threads, compiled)

    def with_opening_messages(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Put the model's own opening messages in front, and its system prompt where the conversation has none."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        system = (
            [{"role": "system", "content": self.settings.system}] if self.settings.system and not has_system else []
        )
        return [*system, *self.settings.messages, *messages]

    async def encode_chat(
        self, conversation: Conversation, template: ChatTemplate | None = None, *, keep: Keep = Keep.ALL
    ) -> list[int]:
        """Return the prompt's token ids, with the model's own template unless there is another for this request."""
        template = template or self._own_template()
        if conversation.thinks and not template.can_think:
            raise no_thinking(self.name)
        bound = PromptBound(max_tokens=self.max_window, keep=keep)
        return await encode_conversation(template, conversation, bound)

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
    """Return the error for a client that asks a model to think which cannot be told to."""
    return InvalidRequestError(
        f"`{name}` does not support thinking: its chat template does not ask for it. Leave think or enable_thinking out, "
        f"or send false.",
        param="chat_template_kwargs",
    )


def _chat_template(
    model: Model, settings: ModelSettings, special_texts: Mapping[str, str], tokenizer: Tokenizer
) -> ChatTemplate:
    """Return the template of the model's settings, else that of its files; raises what ChatTemplate.load raises."""
    if settings.template:
        return ChatTemplate(settings.template, special_texts, tokenizer)
    return ChatTemplate.load(model, tokenizer)


def _logged(model: Model, defaults: ModelDefaults) -> ModelDefaults:
    """Log, each time that a model is read, what its requests sample with by default, and what of its files cannot be."""
    logger.info("sampling defaults", extra={"model": model.name, "defaults": as_json(defaults.parameters)})
    for reason in defaults.ignored:
        logger.warning("sampling value ignored", extra={"model": model.name, "reason": reason})
    return defaults
