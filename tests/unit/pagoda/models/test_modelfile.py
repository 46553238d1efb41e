"""Modelfiles: what is parsed, what is refused by name, and that a rendered file parses to the same again."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagoda.models.errors import ModelfileError
from pagoda.models.model_settings import ModelSettings
from pagoda.models.modelfile import FromLine, parse_modelfile, render_modelfile

WHOLE = '''
# A comment, and an empty line

FROM ./tiny.gguf
system """You are a pirate.
Say "arr".
"""
PARAMETER temperature 0.5
PARAMETER num_ctx 4096
PARAMETER stop "<|end|>"
PARAMETER stop two words
TEMPLATE {{ messages[0]['content'] }}
LICENSE one
LICENSE """two
lines"""
MESSAGE user Hello there
MESSAGE assistant """Arr,
you too"""
'''


def test_every_instruction() -> None:
    parsed = parse_modelfile(WHOLE)
    assert parsed.base == "./tiny.gguf"
    assert parsed.settings == ModelSettings(
        system='You are a pirate.\nSay "arr".\n',
        template="{{ messages[0]['content'] }}",
        license=["one", "two\nlines"],
        parameters={"temperature": 0.5, "num_ctx": 4096, "stop": ["<|end|>", "two words"]},
        messages=[{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Arr,\nyou too"}],
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no FROM line"),
        ("SYSTEM hello", "no FROM line"),
        (
            "FROM a\nADAPTER ./lora",
            "line 2 of the Modelfile: ADAPTER is not supported, and the model would answer differently",
        ),
        ('SYSTEM a\nFROM ""', "line 2 of the Modelfile: FROM is empty"),
        ("FROM a\n\nFORM b", "line 3 of the Modelfile: unknown instruction 'FORM'"),
        ("FROM a\nPARAMETER top_k many", "top_k must be a whole number (got 'many')"),
        ("FROM a\nPARAMETER top_p", "top_p must be a number"),
        ("FROM a\nPARAMETER num_ctx 0", "line 2 of the Modelfile: num_ctx must be"),
        ("FROM a\nPARAMETER num_predict 0", "num_predict must be"),
        ("FROM a\nPARAMETER temperature -1", "temperature must be"),
        ("FROM a\nPARAMETER temperature nan", "temperature must be a number (got nan)"),
        ("FROM a\nPARAMETER top_p 1.5", "top_p must be"),
        ("FROM a\nPARAMETER repeat_last_n -2", "repeat_last_n must be"),
        ("FROM a\nPARAMETER seed 99999999999999999999", "seed must be a number"),
        ("FROM a\nPARAMETER stop", "stop must be strings of 1 to 1024 characters"),
        ('FROM a\nPARAMETER stop ""', "stop must be strings of 1 to 1024 characters"),
        ("FROM a\nMESSAGE robot hi", "must begin with a role"),
        ('FROM a\nSYSTEM """endless', 'line 2 of the Modelfile: """ is not closed'),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ModelfileError) as refused:
        parse_modelfile(text)
    assert words in str(refused.value)


NEUTRAL = ("mirostat 0", "mirostat_eta 0.1", "mirostat_tau 5", "mirostat_tau 5.0", "tfs_z 1", "typical_p 1.0")
HINTS = (
    "use_mmap true",
    "penalize_newline false",
    "num_gqa 8",
    "num_keep 4",
    "num_gpu 99",
    "num_thread 8",
    "numa false",
)


@pytest.mark.parametrize("parameter", [*NEUTRAL, *HINTS])
def test_what_changes_nothing_is_left_out_with_a_warning(parameter: str) -> None:
    parsed = parse_modelfile(f"FROM a\nPARAMETER {parameter}\nPARAMETER top_k 3")
    assert parsed.settings.parameters == {"top_k": 3}
    assert parsed.warnings == (f"line 2 of the Modelfile: PARAMETER {parameter} has no effect; ignored",)


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("PARAMETER mirostat 2", "PARAMETER mirostat 2 is not supported; ignored"),
        ("PARAMETER typical_p 0.5", "PARAMETER typical_p 0.5 is not supported; ignored"),
        ("PARAMETER mirostat_tau much", "PARAMETER mirostat_tau much is not supported; ignored"),
        ("PARAMETER heat 1", "PARAMETER heat 1 is unknown; ignored"),
        ('PARAMETER heat """a\nb"""', 'PARAMETER heat """a b""" is unknown; ignored'),
        ("DRAFT ./draft.gguf", "DRAFT is ignored: speculative decoding with a draft model is not supported"),
        ("parser qwen3", "PARSER is ignored: Ollama's parsers are not supported"),
        ("RENDERER qwen3-coder", "RENDERER is ignored: the model's chat template writes the prompts"),
        ("REQUIRES 0.14.0", "REQUIRES is ignored: it names a version of Ollama"),
    ],
)
def test_what_is_not_supported_is_left_out_with_a_warning(line: str, warning: str) -> None:
    parsed = parse_modelfile(f"FROM a\nPARAMETER top_k 3\n{line}\nSYSTEM b")
    assert parsed.settings.to_json() == {"parameters": {"top_k": 3}, "system": "b"}
    assert parsed.warnings == (f"line 3 of the Modelfile: {warning}",)


def test_a_go_template_is_kept_as_it_is() -> None:
    """The model's files decide later whether it is used, so its line is kept for messages."""
    template = '{{ if .System }}a "b"\n{{ .System }}{{ end }}{{ .Prompt }}\n'
    parsed = parse_modelfile(f'FROM a\n\nTEMPLATE """{template}"""')
    assert (parsed.settings.template, parsed.template_line) == (template, 3)
    again = parse_modelfile(render_modelfile("base", parsed.settings))
    assert (again.settings, again.template_line) == (parsed.settings, 3)


def test_every_from_is_kept() -> None:
    parsed = parse_modelfile("FROM /blobs/sha256-a\nFROM /blobs/sha256-b\nSYSTEM c")
    assert parsed.base == "/blobs/sha256-a"
    assert parsed.bases == (FromLine(1, "/blobs/sha256-a"), FromLine(2, "/blobs/sha256-b"))


def test_lines_may_end_as_on_windows() -> None:
    assert parse_modelfile(WHOLE.replace("\n", "\r\n")) == parse_modelfile(WHOLE)


# A Modelfile has no escape for three quotes inside three quotes.
TEXT = st.text(st.characters(exclude_categories=["C"]) | st.just('"'), max_size=40).filter(
    lambda text: '"""' not in text
)
LINES = st.lists(TEXT, min_size=1, max_size=3).map("\n".join)


@given(
    system=LINES,
    licenses=st.lists(LINES, max_size=2),
    stops=st.lists(LINES.filter(bool), max_size=3),
    messages=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), LINES), max_size=3),
    temperature=st.floats(0, 2),
)
@example(system=" \n", licenses=[" \n "], stops=[" \n"], messages=[("user", " \n")], temperature=0.0)
def test_what_is_written_reads_back_the_same(
    system: str, licenses: list[str], stops: list[str], messages: list[tuple[str, str]], temperature: float
) -> None:
    settings = ModelSettings(
        system=system,
        license=licenses,
        parameters={"temperature": temperature, **({"stop": stops} if stops else {})},
        messages=[{"role": role, "content": content} for role, content in messages],
    )
    parsed = parse_modelfile(render_modelfile("base", settings))
    assert (parsed.base, parsed.settings) == ("base", settings)


@pytest.mark.parametrize(
    "template", ["{{ range(3) | list }}", "{{ end_token }}{{ template_name }}", "{%- if x %}{{ x }}{% endif %}"]
)
def test_jinja_is_not_taken_for_go(template: str) -> None:
    assert parse_modelfile(f"FROM a\nTEMPLATE {template}").settings.template == template
