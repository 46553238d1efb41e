"""The choice of a model's chat template: the settings, the model's files, or the equivalent of a known Go template."""

from pathlib import Path

import pytest

from pagoda.models.chat_template_choice import choose_chat_template
from pagoda.models.errors import ChatTemplateChoiceError, UnknownGoTemplateError
from pagoda.models.formats.description import describe
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama.go_templates import jinja_of
from tests.fakes.tiny_model import CHAT_TEMPLATE, write_tiny_gguf

KNOWN = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
UNKNOWN = "{{ .System }}: {{ .Prompt }}"
PLAIN = "{{ .Prompt }}"


def model(directory: Path, own: str | None) -> Model:
    return describe("tiny", write_tiny_gguf(directory / "model.gguf", chat_template=own), digest="", size_bytes=0)


@pytest.mark.parametrize(
    ("template", "own", "chosen"),
    [
        ("", CHAT_TEMPLATE, CHAT_TEMPLATE),
        ("", None, None),
        ("", "", None),
        (KNOWN, "", jinja_of(KNOWN)),
        ("", KNOWN, jinja_of(KNOWN)),
        ("", PLAIN, None),
        ("{{ messages }}", CHAT_TEMPLATE, "{{ messages }}"),
        ("{{ messages }}", None, "{{ messages }}"),
        ("{{ messages }}", UNKNOWN, "{{ messages }}"),
        (KNOWN, None, jinja_of(KNOWN)),
        (KNOWN, UNKNOWN, jinja_of(KNOWN)),
        (PLAIN, None, None),
    ],
)
def test_what_is_chosen_without_a_warning(tmp_path: Path, template: str, own: str | None, chosen: str | None) -> None:
    choice = choose_chat_template(model(tmp_path, own), ModelSettings(template=template))
    assert (choice.text, choice.warning) == (chosen, "")


@pytest.mark.parametrize("template", [KNOWN, UNKNOWN, PLAIN])
def test_the_jinja_of_the_files_wins_over_any_go_template(tmp_path: Path, template: str) -> None:
    tiny, settings = model(tmp_path, CHAT_TEMPLATE), ModelSettings(template=template)
    choice = choose_chat_template(tiny, settings)
    assert choice.text == CHAT_TEMPLATE
    assert choice.warning == (
        "the model's template is a Go template; the Jinja template in the model's own files is used instead"
    )
    named = choose_chat_template(tiny, settings, "line 3 of the Modelfile: TEMPLATE")
    assert named.warning.startswith("line 3 of the Modelfile: TEMPLATE is a Go template; ")


def test_an_unknown_go_template_is_an_error_that_says_where_it_is(tmp_path: Path) -> None:
    tiny, settings = model(tmp_path, None), ModelSettings(template=UNKNOWN)
    with pytest.raises(UnknownGoTemplateError) as refused:
        choose_chat_template(tiny, settings, "line 3 of the Modelfile: TEMPLATE")
    assert str(refused.value) == (
        "line 3 of the Modelfile: TEMPLATE is a Go template that is not known, and the model's files have none; "
        "write it in Jinja"
    )
    with pytest.raises(UnknownGoTemplateError, match="create a model from this one with a template in Jinja"):
        choose_chat_template(tiny, settings)


def test_an_unknown_go_template_in_the_files(tmp_path: Path) -> None:
    with pytest.raises(
        ChatTemplateChoiceError, match="in the model's files is a Go template that is not known"
    ) as refused:
        choose_chat_template(model(tmp_path, UNKNOWN), ModelSettings())
    assert not isinstance(refused.value, UnknownGoTemplateError)
