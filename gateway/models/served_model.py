"""A model as the gateway serves it: its tokenizer, its chat template and its settings."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gateway.errors import InvalidRequestError
from gateway.parsing.round_trip import TokenNames, prove_format
from gateway.prompts.chat_template import ChatTemplate, NoTemplateError, template_variables
from gateway.prompts.conversation import Conversation
from gateway.prompts.fill_prompt import encode_fill
from gateway.prompts.prompt_encoding import EncodedConversation, encode_conversation, encode_texts
from gateway.prompts.template_renderer import ChatTemplateError, rendering_threads
from pagoda.models.chat_template_choice import choose_chat_template
from pagoda.models.errors import ChatTemplateChoiceError, ModelFormatError, UnknownGoTemplateError
from pagoda.models.formats.fill_tokens import FillTokens, read_fill_tokens
from pagoda.models.formats.gguf_file import headers_kept
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.names import with_tag
from pagoda.models.output_formats.choice import FormatChoice, choose_output_format
from pagoda.models.output_formats.description import ReasoningSyntax
from pagoda.models.sampling_defaults import ModelDefaults, SamplingPolicy, as_json
from pagoda.models.stored_settings import read_settings
from pagoda.text.prompt_bound import Keep, PromptBound
from pagoda.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

MAX_REQUEST_TEMPLATE_CHARACTERS = 1 << 16
"""Maximum number of characters of a template in a request. Templates of models may be longer (template_renderer.py)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedModel:
    """A model with all that the gateway needs to turn text into tokens."""

    model: Model
    tokenizer: Tokenizer
    settings: ModelSettings
    defaults: ModelDefaults
    special_texts: Mapping[str, str]
    """Texts of the special tokens by the names that templates use, such as `bos_token`."""
    chat_template: ChatTemplate | None = None
    """Chat template; None for a base model, which cannot chat, and for a model whose template is not valid."""
    template_problem: str | None = None
    """Reason why the template is not valid, if it is not."""
    output: FormatChoice
    """The format in which the model writes reasoning and tool calls."""
    replaced_template: str | None = None
    """The template that replaces the model's own, by a setting of the server."""
    fill: FillTokens | None = None
    """The tokens for a text between two others; None for a model that cannot fill."""

    @classmethod
    @headers_kept()
    def load(cls, model: Model, policy: SamplingPolicy, chat_template: str | None = None) -> "ServedModel":
        """Read the model's tokenizer, settings and template. A template that is not valid is logged, not raised.

        `chat_template`, in Jinja, replaces the model's own.
        """
        tokenizer, settings = Tokenizer.load(model), read_settings(model)
        settings = settings if chat_template is None else replace(settings, template=chat_template)
        defaults = _logged(model, policy.defaults_of(model, settings))
        special_texts = template_variables(model, tokenizer)
        template = problem = None
        try:
            choice = choose_chat_template(model, settings)
            if choice.warning:
                logger.warning("Go template not used", extra={"model": model.name, "reason": choice.warning})
            template = ChatTemplate.of_choice(choice, special_texts, tokenizer)
        except NoTemplateError:
            logger.info("model has no chat template", extra={"model": model.name})
        except (ChatTemplateError, ChatTemplateChoiceError) as error:
            problem = str(error)
            logger.warning("chat template not valid; model cannot chat", extra={"model": model.name, "reason": problem})
        return cls(
            model=model,
            tokenizer=tokenizer,
            settings=settings,
            defaults=defaults,
            special_texts=special_texts,
            chat_template=template,
            template_problem=problem,
            output=_output_format(model, template, tokenizer),
            replaced_template=chat_template,
            fill=read_fill_tokens(model),
        )

    @staticmethod
    @headers_kept()
    def check_model(model: Model, settings: ModelSettings) -> None:
        """Raise ModelFormatError with the reason if the model's tokenizer or chat template cannot be used.

        A model with an unknown Go template is accepted, because it can complete texts.
        """
        tokenizer = Tokenizer.load(model)
        special_texts = template_variables(model, tokenizer)
        try:
            ChatTemplate.of_choice(choose_chat_template(model, settings), special_texts, tokenizer)
        except (NoTemplateError, UnknownGoTemplateError):
            pass
        except (ChatTemplateError, ChatTemplateChoiceError) as error:
            raise ModelFormatError(f"the chat template cannot be used: {error}") from None

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def has_no_template(self) -> bool:
        """True for a base model; False for a model with a template, valid or not."""
        return self.chat_template is None and self.template_problem is None

    @property
    def tagged_name(self) -> str:
        """The name as Ollama writes it: with the tag `latest` if it has none."""
        return with_tag(self.model.name)

    @property
    def max_window(self) -> int:
        """The longest window, in tokens. A worker's window may be shorter, never longer."""
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
        """Return the token ids of `text`. Raises PromptTooLongError if it certainly has more than `max_tokens`.

        The default of `max_tokens` is the model's window. The error names `field`, which contained the text.
        """
        bound = PromptBound(max_tokens=max_tokens or self.max_window, keep=keep)
        (ids,) = await encode_texts(self.tokenizer, [text], bound, field=field, add_special_tokens=add_special_tokens)
        return ids

    async def encode_texts(
        self, texts: Sequence[str], *, field: str = "prompt", add_special_tokens: bool, keep: Keep = Keep.ALL
    ) -> list[list[int]]:
        """Return each text's token ids. Raises the same errors as `encode_text`."""
        bound = PromptBound(max_tokens=self.max_window, keep=keep)
        return await encode_texts(self.tokenizer, texts, bound, field=field, add_special_tokens=add_special_tokens)

    async def encode_fill(self, beginning: str | Sequence[int], end: str) -> list[int]:
        """Return the prompt for the text between two others. Raises InvalidRequestError for a model that cannot fill."""
        bound = PromptBound(max_tokens=self.max_window, keep=Keep.ALL)
        return await encode_fill(self.tokenizer, self.fill_tokens(), beginning, end, bound)

    def fill_tokens(self) -> FillTokens:
        """Return the tokens for a text between two others. Raises InvalidRequestError for a model that cannot fill."""
        if self.fill is None:
            raise InvalidRequestError(
                f"`{self.name}` does not support insert: its vocabulary has no tokens for a text between two others. "
                "Leave out `suffix`, or use a model for code, such as qwen2.5-coder.",
                param="suffix",
            )
        return self.fill

    def check_token_ids(self, token_ids: Iterable[int], field: str) -> None:
        """Raise InvalidRequestError if an id is not in the vocabulary."""
        wrong, size = max(token_ids, default=0), self.tokenizer.vocab_size
        if wrong >= size:
            raise InvalidRequestError(
                f"Token ids in `{field}` must be between 0 and {size - 1} (got {wrong}).", param=field
            )

    async def compile_template(self, source: str) -> ChatTemplate:
        """Compile a template that came with a request, for this model. Raises ChatTemplateError if it is not valid."""
        if len(source) > MAX_REQUEST_TEMPLATE_CHARACTERS:
            raise ChatTemplateError(
                f"a chat template in a request may have at most {MAX_REQUEST_TEMPLATE_CHARACTERS} characters (got {len(source)})"
            )
        compiled = partial(ChatTemplate, source, self.special_texts, self.tokenizer, is_foreign=True)
        return await asyncio.get_running_loop().run_in_executor(rendering_threads, compiled)

    def with_opening_messages(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the messages after the model's own opening messages, and after its system prompt if they have none."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        system = (
            [{"role": "system", "content": self.settings.system}] if self.settings.system and not has_system else []
        )
        return [*system, *self.settings.messages, *messages]

    async def render_chat(
        self, conversation: Conversation, template: ChatTemplate | None = None, *, keep: Keep = Keep.ALL
    ) -> EncodedConversation:
        """Return the conversation, rendered with `template` or else the model's own, and its token ids."""
        template = template or self.own_template()
        if conversation.thinks and not self.can_think(template):
            raise no_thinking(self.name)
        bound = PromptBound(max_tokens=self.max_window, keep=keep)
        return await encode_conversation(template, conversation, bound)

    def can_think(self, template: ChatTemplate | None = None) -> bool:
        """Return True if the model can think before it answers: its template has a variable for it, or a marker."""
        template = template or self.chat_template
        return template is not None and (template.can_think or self.reasoning is not None)

    @property
    def reasoning(self) -> ReasoningSyntax | None:
        """The markers around the model's reasoning. None for a model whose template and vocabulary have none."""
        return self.output.format.reasoning

    def own_template(self) -> ChatTemplate:
        """Return the model's template. Raises InvalidRequestError if it has none that can be used."""
        if self.chat_template is not None:
            return self.chat_template
        if self.template_problem is not None:
            raise InvalidRequestError(
                f"The model `{self.name}` cannot chat: {self.template_problem}.", param="messages"
            )
        raise InvalidRequestError(
            f"The model `{self.name}` has no chat template, so it cannot chat; use completions instead.",
            param="messages",
        )


def _output_format(model: Model, template: ChatTemplate | None, tokenizer: Tokenizer) -> FormatChoice:
    """Return the model's format, with a problem if a call that its template writes is not read back. Log both."""
    if template is None:
        choice = choose_output_format(model, None, vocabulary=TokenNames(tokenizer))
    else:
        names = TokenNames(tokenizer)
        choice = choose_output_format(model, template.source, reads_tools=template.reads_tools, vocabulary=names)
        choice = replace(
            choice, problem=prove_format(choice.format, template, tokenizer) if choice.template_has_tools else ""
        )
    known = {"model": model.name, "format": choice.format.name, "source": choice.source}
    logger.info("output format", extra=known)
    if choice.problem:
        logger.warning("output format in doubt", extra={**known, "reason": choice.problem})
    return choice


def no_thinking(name: str) -> InvalidRequestError:
    """Return the error for a request to think, to a model whose template has no variable for it."""
    return InvalidRequestError(
        f"`{name}` does not support thinking: its chat template has no variable for it. Omit `think` and `enable_thinking`, "
        "or set them to false.",
        param="chat_template_kwargs",
    )


def _logged(model: Model, defaults: ModelDefaults) -> ModelDefaults:
    """Log the model's default sampling parameters, and the values of its files that cannot be used. Return the defaults."""
    logger.info("sampling defaults", extra={"model": model.name, "defaults": as_json(defaults.parameters)})
    for reason in defaults.ignored:
        logger.warning("sampling value ignored", extra={"model": model.name, "reason": reason})
    return defaults
