"""Chat messages to token ids, through the model's own Jinja template in a sandbox.

Special tokens become ids only where the template wrote them; those typed in a message stay text. Knows nothing about the
dialects' requests.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import jinja2

from gateway.prompt_bound import PromptBound
from gateway.special_text import SpecialText, unused_character
from gateway.template_sandbox import TemplateSandbox
from gateway.template_variables import template_variables
from gateway.tokenizer import Tokenizer
from pagoda.models.chat_template_text import chat_template_text
from pagoda.models.model import Model

MAX_RENDERED_CHARACTERS = 1 << 24


class ChatTemplateError(ValueError):
    """There is no usable template, or it does not accept these messages."""


class ChatTemplate:
    def __init__(self, source: str, special_texts: Mapping[str, str], tokenizer: Tokenizer) -> None:
        """`special_texts` are the variables that templates expect: `bos_token` and its like."""
        self.source = source
        self._special_texts = special_texts
        self._tokenizer = tokenizer
        self._special = SpecialText(tokenizer.special_tokens)
        try:
            self._sandbox = TemplateSandbox(max_characters=MAX_RENDERED_CHARACTERS)
            self._template = self._sandbox.limited_template(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ChatTemplateError(f"the model's chat template is not valid: {error}") from None

    @classmethod
    def load(cls, model: Model, tokenizer: Tokenizer) -> Self:
        source = chat_template_text(model)
        if source is None:
            raise ChatTemplateError(
                f"the model {model.name!r} has no chat template (it is a base model); use completions instead of chat"
            )
        return cls(source, template_variables(model, tokenizer), tokenizer)

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        bound: PromptBound | None = None,
    ) -> list[int]:
        """The prompt's ids, which begin with the beginning-of-sequence token once if the model expects one.

        `continue_final_message` leaves out whatever the template writes behind the last message's content.
        Raises TextTooLongError where `bound` refuses the prompt.
        """
        marked, mark = self._mark_special(_plain(messages))
        if continue_final_message:
            rendered = self._render_up_to_the_end_of_the_last(marked, mark * 2)
        else:
            rendered = self._render(marked, add_generation_prompt)
        ids: list[int] = []
        for text, token_id in self._special.split(rendered):
            ids += self._tokenizer.encode(text.replace(mark, ""), add_special_tokens=False, bound=bound)
            ids += [] if token_id is None else [token_id]
            ids = ids if bound is None else bound.trimmed(ids)
        bos = self._tokenizer.bos_prefix()
        return ids if ids[: len(bos)] == bos else bos + ids

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The prompt as text, for showing; where its special tokens came from can no longer be seen in it."""
        return self._render(_plain(messages), add_generation_prompt)

    def _mark_special(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
        try:
            mark = unused_character(self.source, messages)
            if mark is None:
                raise ChatTemplateError("the messages use all of Unicode's private characters")
            return self._special.mark(messages, mark), mark
        except RecursionError:
            raise ChatTemplateError("the messages are nested too deep") from None

    def _render_up_to_the_end_of_the_last(self, messages: list[dict[str, Any]], end: str) -> str:
        *before, last = messages
        rendered = self._render([*before, {**last, "content": last["content"] + end}], False)
        if end not in rendered:
            raise ChatTemplateError(
                "the model's chat template does not show the last message, so it cannot be continued"
            )
        return rendered[: rendered.rindex(end)]

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        variables = {"messages": messages, "add_generation_prompt": add_generation_prompt, **self._special_texts}
        pieces: list[str] = []
        num_characters = 0
        try:
            with self._sandbox.limits():
                for piece in self._template.generate(variables):
                    pieces.append(piece)
                    num_characters += len(piece)
                    if num_characters > MAX_RENDERED_CHARACTERS:
                        raise ChatTemplateError(
                            f"the chat template wrote more than {MAX_RENDERED_CHARACTERS} characters"
                        )
        except ChatTemplateError:
            raise
        except Exception as error:  # templates call any method of what they are given: any class can come out
            raise ChatTemplateError(f"the model's chat template does not accept these messages: {error}") from None
        return "".join(pieces)


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**message, "content": _content_text(message.get("content"))} for message in messages]


def _content_text(content: Any) -> str:
    """A text, or the texts of its parts on lines of their own; no content is an empty one."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        raise ChatTemplateError("a message's content must be a text or a list of parts")
    return "\n".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": kind} if kind != "text":
            raise ChatTemplateError(f"content parts of type {kind!r} are not supported (known: text)")
    raise ChatTemplateError('a content part must have the form {"type": "text", "text": ...}')
