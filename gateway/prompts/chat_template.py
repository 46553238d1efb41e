"""Conversion of chat messages to token ids, through the model's own Jinja template.

The template is rendered in a separate process (template_renderer.py). Special tokens become ids only where the template wrote
them; those in a message stay text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from gateway.prompts.conversation import ChatEnding, Conversation
from gateway.prompts.special_text import SpecialText, unused_character
from gateway.prompts.template_quirks import (
    has_arguments_as_text,
    reasoning_key,
    takes_one_call,
    wants_arguments_as_text,
    with_arguments_as_objects,
    with_arguments_as_text,
    with_one_call_each,
    with_reasoning,
)
from gateway.prompts.template_renderer import ChatTemplateError, TemplateRenderer, shared_renderer
from pagoda.models.chat_template_choice import ChatTemplateChoice, choose_chat_template
from pagoda.models.formats.end_tokens import token_text
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.model import Model, ModelFormat
from pagoda.models.model_settings import ModelSettings
from pagoda.text.prompt_bound import PromptBound
from pagoda.text.tokenizer import Tokenizer

THINKING_VARIABLES = ("enable_thinking", "thinking")
"""Names of the variables that tell a template whether the model thinks before it answers."""
TOOL_VARIABLES = ("tools", "xml_tools")
"""Names of the variables under which templates read the tools."""
EFFORT_VARIABLE = "reasoning_effort"
"""The name of the variable that tells a template how much the model thinks."""
RESERVED_VARIABLES = frozenset(
    {"messages", "add_generation_prompt", "continue_final_message", "documents", *TOOL_VARIABLES}
    | {"dict", "namespace", "raise_exception", "strftime_now"}
)
"""Names of variables that the gateway sets, and of functions that templates call. Clients cannot set them."""

GGUF_TOKEN_KEYS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


class NoTemplateError(ChatTemplateError):
    """The error for a base model, whose files have no template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A rendered conversation. `mark` is inside each special token that a message contains."""

    text: str
    mark: str
    continued: str = ""
    """The beginning of the answer, with its marks, if the final message is to be continued."""

    @property
    def plain_text(self) -> str:
        return self.text.replace(self.mark, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marked:
    """The variables of a template, with `mark` inside each special token in them."""

    messages: list[dict[str, Any]]
    mark: str
    add_generation_prompt: bool
    variables: Mapping[str, Any]
    """All variables besides the messages and the generation prompt."""


class ChatTemplate:
    """A compiled chat template, with the tokenizer and the special tokens of its model."""

    def __init__(
        self,
        source: str,
        special_texts: Mapping[str, str],
        tokenizer: Tokenizer,
        *,
        is_foreign: bool = False,
        renderer: TemplateRenderer | None = None,
    ) -> None:
        """Compile the template. Raises ChatTemplateError with the reason if it is not valid.

        `special_texts` are the special tokens that templates use as variables, such as `bos_token`. `is_foreign` is True for a
        template that came with a request.
        """
        self.source = source
        self._special_texts = special_texts
        self._tokenizer = tokenizer
        self._special = SpecialText(tokenizer)
        self._is_foreign = is_foreign
        self._renderer = renderer or shared_renderer()
        self._variables = self._renderer.check_template(source, is_foreign=is_foreign)
        self._arguments_are_text: bool | None = None
        """True if the arguments of earlier calls must be JSON text; None until a conversation has a call."""
        self._calls_are_single: bool | None = None
        """True if each message must have at most one call; None until a conversation has more."""

    @classmethod
    def load(cls, model: Model, tokenizer: Tokenizer) -> Self:
        """Load and compile the template of the model's files.

        Raises NoTemplateError for a base model, ChatTemplateError for a template that is not valid, and ChatTemplateChoiceError.
        """
        choice = choose_chat_template(model, ModelSettings())
        return cls.of_choice(choice, template_variables(model, tokenizer), tokenizer)

    @classmethod
    def of_choice(cls, choice: ChatTemplateChoice, special_texts: Mapping[str, str], tokenizer: Tokenizer) -> Self:
        """Compile a chosen template. Raises NoTemplateError if there is none, and ChatTemplateError if it is not valid."""
        if choice.text is None:
            raise NoTemplateError(
                "the model has no chat template (it is a base model); use completions instead of chat"
            )
        return cls(choice.text, special_texts, tokenizer)

    @property
    def can_think(self) -> bool:
        """True if the template reads one of THINKING_VARIABLES."""
        return bool(self._variables.intersection(THINKING_VARIABLES))

    @property
    def reads_tools(self) -> bool:
        """True if the template describes the tools that it gets."""
        return not self._variables.isdisjoint(TOOL_VARIABLES)

    @property
    def reads_documents(self) -> bool:
        return "documents" in self._variables

    @property
    def reads_effort(self) -> bool:
        """True if the template has levels of reasoning."""
        return EFFORT_VARIABLE in self._variables

    def effort_for(self, effort: str) -> str:
        """Return the level of reasoning that the template knows and that is nearest to the given one."""
        if f'"{effort}"' in self.source or f"'{effort}'" in self.source:
            return effort
        return {"minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)

    def check_variable_names(self, names: Iterable[str]) -> None:
        """Raise ChatTemplateError for a name that a client must not set, because the gateway or the model does."""
        for name in names:
            if name in RESERVED_VARIABLES or name in self._special_texts:
                raise ChatTemplateError(f"the variable {name!r} of the chat template is reserved")

    def render_prompt(self, conversation: Conversation) -> RenderedPrompt:
        """Render the conversation. Raises ChatTemplateError with the reason if the template does not accept it.

        If the last message is to be continued, the prompt ends with its content: what the template writes after it is left out.
        """
        self.check_variable_names(conversation.variables)
        marked = self._mark_special(conversation, self._fitted(conversation.messages))
        try:
            return self._render_marked(marked, conversation.ending)
        except ChatTemplateError:
            if not has_arguments_as_text(marked.messages) or self._joins_arguments():
                raise
            # A model wrote arguments that are no JSON object, and the template has no place for a text.
            messages = [with_arguments_as_objects(message) for message in marked.messages]
            return self._render_marked(replace(marked, messages=messages), conversation.ending)

    def encode_rendered(self, prompt: RenderedPrompt, bound: PromptBound | None = None) -> list[int]:
        """Return the token ids. They begin with exactly one beginning-of-sequence token if the model expects one.

        Raises TextTooLongError if the prompt exceeds `bound`.
        """
        return self._tokenizer.begun(self._tokenizer.encode_marked(prompt.text, prompt.mark, bound=bound))

    def _fitted(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the messages with earlier calls and reasoning as the template reads them."""
        key = reasoning_key(self.source)
        fitted = [with_reasoning(message, key) for message in messages]
        if any(message.get("tool_calls") for message in fitted) and self._joins_arguments():
            fitted = [with_arguments_as_text(message) for message in fitted]
        if any(len(message.get("tool_calls") or ()) > 1 for message in fitted) and self._takes_one_call():
            return with_one_call_each(fitted)
        return fitted

    def _takes_one_call(self) -> bool:
        if self._calls_are_single is None:
            self._calls_are_single = takes_one_call(self._render_probe, as_text=self._joins_arguments())
        return self._calls_are_single

    def _joins_arguments(self) -> bool:
        if self._arguments_are_text is None:
            self._arguments_are_text = wants_arguments_as_text(self._render_probe)
        return self._arguments_are_text

    def _render_probe(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        variables = {**self._special_texts, **dict.fromkeys(self._tool_variables(), tools)}
        return self._render(messages, add_generation_prompt=True, variables=variables)

    def _tool_variables(self) -> tuple[str, ...]:
        return ("xml_tools",) if "xml_tools" in self._variables and "tools" not in self._variables else ("tools",)

    def _mark_special(self, conversation: Conversation, messages: list[dict[str, Any]]) -> _Marked:
        tools = [tool.given for tool in conversation.tools]
        documents = list(conversation.documents)
        try:
            mark = unused_character(self.source, messages, tools, documents, conversation.variables)
            if mark is None:
                raise ChatTemplateError("the messages use all private Unicode characters; at least one must be unused")
            given: dict[str, Any] = self._special.mark_inside(conversation.variables, mark)
            tools, documents = self._special.mark_inside(tools, mark), self._special.mark_inside(documents, mark)
            messages = self._special.mark_typed(messages, mark)
        except RecursionError:
            raise ChatTemplateError("the messages are nested too deeply") from None
        asked = {} if conversation.thinks is None else dict.fromkeys(THINKING_VARIABLES, conversation.thinks)
        variables = {
            **given,
            **dict.fromkeys(self._tool_variables(), tools or None),
            "documents": documents or None,
            **self._special_texts,
            **asked,
        }
        return _Marked(
            messages=messages,
            mark=mark,
            add_generation_prompt=conversation.ending is ChatEnding.BEGUN,
            variables=variables,
        )

    def _render_marked(self, marked: _Marked, ending: ChatEnding) -> RenderedPrompt:
        if ending is ChatEnding.CONTINUED:
            return self._render_up_to_the_end_of_the_last(marked)
        text = self._render(
            marked.messages, add_generation_prompt=marked.add_generation_prompt, variables=marked.variables
        )
        return RenderedPrompt(text=text, mark=marked.mark)

    def _render_up_to_the_end_of_the_last(self, marked: _Marked) -> RenderedPrompt:
        *before, last = marked.messages
        if last.get("tool_calls"):
            raise ChatTemplateError("the last message cannot be continued, because it ends with tool calls")
        end = marked.mark * 2
        messages = [*before, {**last, "content": last["content"] + end}]
        rendered = self._render(messages, add_generation_prompt=False, variables=marked.variables)
        if end not in rendered:
            raise ChatTemplateError(
                "the last message cannot be continued, because the model's chat template leaves it out"
            )
        return RenderedPrompt(text=rendered[: rendered.rindex(end)], mark=marked.mark, continued=last["content"])

    def _render(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, variables: Mapping[str, Any]
    ) -> str:
        everything = {
            "tools": None,
            "documents": None,
            **variables,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._renderer.render_template(self.source, everything, is_foreign=self._is_foreign)


def template_variables(model: Model, tokenizer: Tokenizer) -> Mapping[str, str]:
    """Return the texts of the model's special tokens by the names that templates use, such as `bos_token`."""
    return (
        _variables_from_gguf(model, tokenizer)
        if model.format is ModelFormat.GGUF
        else _variables_from_checkpoint(model)
    )


def _variables_from_gguf(model: Model, tokenizer: Tokenizer) -> Mapping[str, str]:
    with GGUFFile(model.path) as file:
        ids = {name: file.metadata.get(key) for name, key in GGUF_TOKEN_KEYS.items()}
    ids["bos_token"] = tokenizer.bos_token_id  # has a default if the metadata does not name it
    return {name: tokenizer.token_text(token_id) for name, token_id in ids.items() if isinstance(token_id, int)}


def _variables_from_checkpoint(model: Model) -> Mapping[str, str]:
    config_path = model.path / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    names = {name: token_text(config, name) for name in GGUF_TOKEN_KEYS}
    return {name: text for name, text in names.items() if text is not None}
