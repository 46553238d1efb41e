"""Known Go templates: how they are recognised, and the prompts that their Jinja equivalents write.

known_prompts.json has the prompts that Ollama writes, for each known template: with a system prompt, without one, with several
turns, and without the beginning of an answer.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prompts.template_sandbox import chat_environment
from pagoda.models.ollama.go_templates import MAX_CHARACTERS, is_plain_prompt, jinja_of, jinja_text
from pagoda.models.ollama.known_templates import KNOWN, KnownTemplate

PROMPTS = json.loads((Path(__file__).parent / "known_prompts.json").read_text(encoding="utf-8"))
S, U, A, V = (
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
)
CONVERSATIONS = ([S, U], [U], [S, U, A, V], [U, A])

CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
LLAMA3 = """{{ if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>{{ end }}{{ if .Prompt }}<|start_header_id|>user<|end_header_id|>

{{ .Prompt }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>

{{ .Response }}<|eot_id|>"""


def rendered(jinja: str, messages: list[dict[str, str]], **variables: Any) -> str:
    return (
        chat_environment().from_string(jinja).render({"messages": messages, "add_generation_prompt": True, **variables})
    )


def kind(known: KnownTemplate) -> str:
    return json.dumps([known.family, dict(known.variables)])


@pytest.mark.parametrize("expected", PROMPTS, ids=[f"{i}-{each['family']}" for i, each in enumerate(PROMPTS)])
def test_each_equivalent_writes_ollamas_prompts(expected: dict[str, Any]) -> None:
    jinja = jinja_text(KnownTemplate(expected["family"], expected["variables"]))
    *begun, whole = CONVERSATIONS
    prompts = [rendered(jinja, messages) for messages in begun]
    assert [*prompts, rendered(jinja, whole, add_generation_prompt=False)] == expected["prompts"]


def test_every_known_template_has_prompts_and_every_file_is_used() -> None:
    named = {kind(KnownTemplate(each["family"], each["variables"])) for each in PROMPTS}
    assert {kind(known) for known in KNOWN.values()} == named
    files = {file.name for file in (resources.files("pagoda.models.ollama") / "templates").iterdir()}
    assert files == {"_turns.jinja"} | {f"{known.family}.jinja" for known in KNOWN.values()}


def test_no_key_is_listed_twice() -> None:
    """Two tables make one; an entry of the one must not replace an entry of the other."""
    assert len(KNOWN) == 105
    assert all(len(key) == 64 for key in KNOWN)


@pytest.mark.parametrize(
    ("go_template", "family"),
    [
        ("{{- range .Messages }}<start_{{ .Role }}>{{ .Content }}<end_message>{{ end }}<start_assistant>", "alfred"),
        (CHATML, "chatml"),
        (LLAMA3, "exchanges"),
        ("{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n", "phi-3"),
        ("{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n", "zephyr"),
    ],
)
def test_templates_are_known_by_their_text(go_template: str, family: str) -> None:
    known = [each for each in KNOWN.values() if each.family == family]
    assert jinja_of(go_template) in [jinja_text(each) for each in known]


def test_the_template_of_llama3_is_known() -> None:
    jinja = jinja_of(LLAMA3)
    assert jinja is not None
    user, assistant = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
    assert rendered(jinja, [U, A, V]) == f"{user}U<|eot_id|>{assistant}A<|eot_id|>{user}V<|eot_id|>{assistant}"


@pytest.mark.parametrize(
    "same",
    [
        CHATML.replace("\n", "\r\n"),
        "\n  " + CHATML,
        CHATML.replace("{{ .Role }}", "{{.Role}}").replace(
            "{{- range .Messages }}", "{{-   range\n\t.Messages   -}}\n"
        ),
        CHATML.replace("{{ end }}", '{{ end }}{{/* a comment with "quotes" and }} */}}'),
        CHATML.replace("{{ .Role }}", "{{- /* a */ -}} \n {{ .Role }}"),
    ],
)
def test_texts_that_write_the_same_are_the_same_template(same: str) -> None:
    assert jinja_of(same) == jinja_of(CHATML) is not None


@pytest.mark.parametrize(
    "other",
    [
        CHATML.rstrip(),
        CHATML + "\n",
        CHATML.replace("im_end", "im_stop"),
        CHATML.replace(".Content", ".Thinking"),
        CHATML.replace("{{ end }}", "{{- end }}"),
        CHATML.replace("{{ .Role }}", "{{ . Role }}"),
        CHATML.replace("{{ .Role }}", '{{ ". Role" }}'),
        CHATML + "{{",
        CHATML + '{{ "',
        CHATML + "{{/* ",
        CHATML + "\ud800",
        CHATML.replace("{{ .Role }}", "{{\u00a0.Role }}"),
        CHATML + "{{/* a */}}" * MAX_CHARACTERS,
        "",
    ],
)
def test_any_other_text_is_not_known(other: str) -> None:
    assert jinja_of(other) is None


PIECES = st.sampled_from(["{{", "}}", "{{-", "-}}", " ", "\n", '"', "`", "\\", "/*", "*/", ".Role", "a", "-"])


@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_text_raises(text: str) -> None:
    assert jinja_of(text) is None
    assert is_plain_prompt(text) is False


@pytest.mark.parametrize("text", ["{{ .Prompt }}", "{{.Prompt}}", "  {{- .Prompt -}}\n", "{{/* a */}}{{ .Prompt }}"])
def test_a_template_that_only_writes_the_prompt(text: str) -> None:
    assert is_plain_prompt(text)
    assert not is_plain_prompt(f"a{text}")


def test_a_template_that_only_writes_the_prompt_leaves_out_the_system_prompt() -> None:
    jinja = jinja_of("{{ .Prompt }}")
    assert jinja is not None
    assert rendered(jinja, [S, U, A, V]) == "UAV"


def test_consecutive_messages_of_a_role_are_one_turn() -> None:
    jinja = jinja_of(CHATML)
    assert jinja is not None
    assert rendered(jinja, [S, S, U, V]) == (
        "<|im_start|>system\nS\n\nS<|im_end|>\n<|im_start|>user\nU\n\nV<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("thinks", "user_ending", "answer_beginning"),
    [(True, " /think", ""), (False, " /no_think", "<think>\n\n</think>\n\n")],
)
def test_the_template_of_qwen3_switches_thinking(thinks: bool, user_ending: str, answer_beginning: str) -> None:
    written = rendered(jinja_text(KnownTemplate("qwen3")), [U, A, V], enable_thinking=thinks)
    turns = "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV"
    assert written == f"{turns}{user_ending}<|im_end|>\n<|im_start|>assistant\n{answer_beginning}"


def test_the_template_of_deepseek_r1_switches_thinking() -> None:
    jinja = jinja_text(KnownTemplate("deepseek-r1"))
    assert rendered(jinja, [U], enable_thinking=False) == "<｜User｜>U<｜Assistant｜><think>\n\n</think>\n\n"
    assert rendered(jinja, [U], enable_thinking=True) == "<｜User｜>U<｜Assistant｜>"
