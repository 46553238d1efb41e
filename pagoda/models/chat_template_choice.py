"""Chooses a model's chat template: that of its settings, or that of its files.

A template in Jinja is used as it is. A Go template, as Ollama's models have, is not interpreted: the Jinja template in the model's
own files is used instead, or else the Jinja equivalent of a known Go template.
"""

from dataclasses import dataclass

from pagoda.models.errors import ChatTemplateChoiceError, UnknownGoTemplateError
from pagoda.models.formats.chat_template_text import chat_template_text, is_go_template, other_template_names
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama.go_templates import is_plain_prompt, jinja_of

OWN_TEMPLATE_USED = "TEMPLATE is a Go template; the Jinja template in the model's own files is used instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplateChoice:
    """The template that writes a model's chats."""

    text: str | None
    """The template in Jinja. None for a base model, which cannot chat."""
    warning: str = ""
    """Sentence for the user if the template of the settings is not used."""


def choose_chat_template(model: Model, settings: ModelSettings) -> ChatTemplateChoice:
    """Return the template to use.

    Raises UnknownGoTemplateError if the only template is a Go template that is not known, and ChatTemplateChoiceError if the
    model's files have several templates, none of which is the default.
    """
    if settings.template and not is_go_template(settings.template):
        return ChatTemplateChoice(text=settings.template)
    own = chat_template_text(model)
    if own is not None and not is_go_template(own):
        return ChatTemplateChoice(text=own, warning=OWN_TEMPLATE_USED if settings.template else "")
    if (go_template := settings.template or own) is not None:
        return ChatTemplateChoice(text=_known(go_template, is_setting=bool(settings.template)))
    if names := other_template_names(model):
        raise ChatTemplateChoiceError(
            f"none of the model's templates is named default (it has: {', '.join(names)[:200]}); "
            "create the model with a template"
        )
    return ChatTemplateChoice(text=None)


def _known(go_template: str, *, is_setting: bool) -> str | None:
    if is_plain_prompt(go_template):
        return None
    jinja = jinja_of(go_template)
    if jinja is None and is_setting:
        raise UnknownGoTemplateError(
            "TEMPLATE is a Go template that is not known, and the model's files have none; write it in Jinja"
        )
    if jinja is None:
        raise ChatTemplateChoiceError(
            "the template in the model's files is a Go template that is not known; create the model with a Jinja template"
        )
    return jinja
