"""Chooses a model's chat template: that of its settings, or that of its files.

A template in Jinja is used as it is. A Go template, as Ollama's models have, is not interpreted: the Jinja template in the model's
own files is used instead, or else the Jinja equivalent of a known Go template.
"""

from dataclasses import dataclass
from pathlib import Path

from pagoda.models.errors import ChatTemplateChoiceError, UnknownGoTemplateError
from pagoda.models.formats.chat_template_text import chat_template_text, is_go_template, other_template_names
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama.go_templates import is_plain_prompt, jinja_of

_CREATE = "create the model with a template in Jinja"


def read_template_file(path: Path) -> str:
    """Return the template of a file, in Jinja. Raises ChatTemplateChoiceError for an unknown Go template, or no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ChatTemplateChoiceError(f"the chat template {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ChatTemplateChoiceError(f"the chat template {path} is not a text file") from None
    jinja = jinja_of(text) if is_go_template(text) else text
    if jinja is None:
        raise UnknownGoTemplateError(f"the chat template {path} is a Go template that is not known; write it in Jinja")
    return jinja


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplateChoice:
    """The template that writes a model's chats."""

    text: str | None
    """The template in Jinja. None for a base model, which cannot chat."""
    warning: str = ""
    """Sentence for the user if the template of the settings is not used."""


def choose_chat_template(model: Model, settings: ModelSettings, template_name: str | None = None) -> ChatTemplateChoice:
    """Return the template to use. `template_name` is the place of the settings' template, for messages to its author.

    Raises UnknownGoTemplateError if the only template is a Go template that is not known, and ChatTemplateChoiceError if the
    files have a template that cannot be used.
    """
    if settings.template and not is_go_template(settings.template):
        return ChatTemplateChoice(text=settings.template)
    name = template_name or "the model's template"
    own = chat_template_text(model) or None  # an empty one writes no prompt
    if own is not None and not is_go_template(own):
        unused = f"{name} is a Go template; the Jinja template in the model's own files is used instead"
        return ChatTemplateChoice(text=own, warning=unused if settings.template else "")
    if settings.template:
        advice = "write it in Jinja" if template_name else "create a model from this one with a template in Jinja"
        unknown = f"{name} is a Go template that is not known, and the model's files have none; {advice}"
        return ChatTemplateChoice(text=_equivalent(settings.template, UnknownGoTemplateError(unknown)))
    if own is not None:
        unknown = "the template in the model's files is a Go template that is not known"
        return ChatTemplateChoice(text=_equivalent(own, ChatTemplateChoiceError(f"{unknown}; {_CREATE}")))
    if names := other_template_names(model):
        raise ChatTemplateChoiceError(
            f"none of the model's templates is named default (it has: {', '.join(names)[:200]}); {_CREATE}"
        )
    return ChatTemplateChoice(text=None)


def _equivalent(go_template: str, unknown: ChatTemplateChoiceError) -> str | None:
    """Return the Jinja equivalent of a Go template, or None if it only writes the prompt. Raises `unknown` if there is none."""
    if is_plain_prompt(go_template):
        return None
    if (jinja := jinja_of(go_template)) is None:
        raise unknown
    return jinja
