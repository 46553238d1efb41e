"""Tests of untrusted templates: each is stopped at its limits with the reason, and the next one finds a working process."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings

from gateway.errors import ErrorKind, GatewayError
from gateway.prompts.template_renderer import (
    MAX_SLOW_WAITING,
    MAX_SOURCE_CHARACTERS,
    ChatTemplateError,
    TemplateLimits,
    TemplateRenderer,
)
from tests.templates.hostile import COMPOSED, ENDLESS, INVALID, LARGE, REFUSED

LIMITS = TemplateLimits(cpu_s=0.2, memory_bytes=96 << 20, characters=1 << 20)
VARIABLES = {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": True}


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    renderer = TemplateRenderer(LIMITS)
    yield renderer
    renderer.close_idle_processes()


@pytest.mark.parametrize("source", [*ENDLESS.values(), *LARGE.values()], ids=[*ENDLESS, *LARGE])
def test_what_costs_too_much_is_stopped(renderer: TemplateRenderer, source: str) -> None:
    """Each template is stopped by the limit that it reaches first on this machine, time or memory."""
    with pytest.raises(ChatTemplateError, match=r"more than (0\.2 s of processor time|96 MiB|\d+ characters)"):
        renderer.render_template(source, VARIABLES)
    assert renderer.render_template("{{ messages[0].content }}", VARIABLES) == "hi"


@pytest.mark.parametrize("source", INVALID.values(), ids=INVALID)
def test_what_does_not_compile_says_why(renderer: TemplateRenderer, source: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"^the chat template is not valid: \S") as raised:
        renderer.check_template(source)
    assert len(str(raised.value)) < 600 and "/" not in str(raised.value)


@pytest.mark.parametrize("source", REFUSED.values(), ids=REFUSED)
def test_what_is_forbidden_or_wrong_is_refused(renderer: TemplateRenderer, source: str) -> None:
    with pytest.raises(ChatTemplateError) as raised:
        renderer.render_template(source, VARIABLES)
    assert len(str(raised.value)) < 600 and "/usr" not in str(raised.value)


@given(source=COMPOSED)
@settings(deadline=None, max_examples=25)
def test_whatever_a_template_does_ends(renderer: TemplateRenderer, source: str) -> None:
    try:
        assert len(renderer.render_template(source, VARIABLES)) <= LIMITS.characters
    except ChatTemplateError as error:
        assert len(str(error)) < 600
    assert renderer.render_template("{{ messages[0].content }}", VARIABLES) == "hi"


def test_a_source_that_is_too_long_is_not_compiled(renderer: TemplateRenderer) -> None:
    with pytest.raises(ChatTemplateError, match=f"at most {MAX_SOURCE_CHARACTERS} are allowed"):
        renderer.check_template("a" * (MAX_SOURCE_CHARACTERS + 1))


@pytest.mark.parametrize("value", [2**70, "\ud800", [[]]], ids=["a long number", "half a character", "nesting"])
def test_what_is_no_json_is_refused(renderer: TemplateRenderer, value: object) -> None:
    for _ in range(300 if isinstance(value, list) else 0):
        value = [value]
    with pytest.raises(ChatTemplateError, match="cannot be passed to the chat template"):
        renderer.render_template("{{ value }}", {"value": value})


def test_halves_of_characters_are_replaced(renderer: TemplateRenderer) -> None:
    assert (
        renderer.render_template("{{ '\\ud83d\\ude00' }}{{ '\\ud83d' }}", {})
        == "\N{GRINNING FACE}\N{REPLACEMENT CHARACTER}"
    )


def test_all_filters_of_jinja_work_in_a_process_that_opens_no_file(renderer: TemplateRenderer) -> None:
    source = (
        "{{ 'a' | center(5) }}{{ 'a b' | wordwrap(1) }}{{ [1] | pprint }}{{ 'www.a.de' | urlize }}{{ {'a': 1} | xmlattr }}"
        "{{ 1000 | filesizeformat }}{{ [1] | random }}{{ lipsum(1, min=1, max=2) is string }}{{ strftime_now('%Z') is string }}"
        "{{ 'ä'.encode('utf-8') }}{{ dict(a=1) }}{{ dict.fromkeys([1]) }}{{ cycler(1, 2).next() }}{{ joiner()() }}"
        "{% set n = namespace({'b': 2}, self=1) %}{% set n.b = 3 %}{{ n.self }}{{ n.b }}"
    )
    expected = '  a  a\nb[1]<a href="https://www.a.de" rel="noopener">www.a.de</a> a="1"1.0 kB1TrueTrue'
    assert renderer.render_template(source, {}) == f"{expected}b'\\xc3\\xa4'{{'a': 1}}{{1: None}}113"


def pid_of(renderer: TemplateRenderer) -> int:
    """Return the id of the process that gets the next request."""
    return renderer._pool._idle[-1]._process.pid


def test_a_process_that_was_killed_is_replaced(renderer: TemplateRenderer) -> None:
    renderer.render_template("a", {})
    before = pid_of(renderer)
    os.kill(before, signal.SIGKILL)
    assert renderer.render_template("a", {}) == "a" and pid_of(renderer) != before


def test_a_process_that_has_grown_is_replaced() -> None:
    renderer = TemplateRenderer(TemplateLimits(memory_bytes=72 << 20))
    renderer.check_template("{{ a }}b" * 3000)
    assert not renderer._pool._idle
    assert renderer.render_template("a", {}) == "a"
    renderer.close_idle_processes()


def test_the_process_has_no_secret(renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGODA_GATEWAY_API_KEY", "secret")
    own = TemplateRenderer(LIMITS)
    own.render_template("a", {})
    environment = Path(f"/proc/{pid_of(own)}/environ").read_bytes()
    own.close_idle_processes()
    assert b"PAGODA" not in environment and b"secret" not in environment


def test_no_process_is_left() -> None:
    renderer = TemplateRenderer(LIMITS)
    renderer.start_first_process()
    renderer.render_template("a", {})
    process = renderer._pool._idle[0]._process
    renderer.close_idle_processes()
    assert process.returncode == 0


SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_slow_templates_keep_no_other_waiting() -> None:
    renderer = TemplateRenderer(TemplateLimits(cpu_s=0.5))
    with ThreadPoolExecutor(8) as threads:
        slow = [threads.submit(renderer.render_template, SLOW, {}, is_foreign=True) for _ in range(6)]
        assert [renderer.render_template("{{ a }}", {"a": i}) for i in range(20)] == [str(i) for i in range(20)]
        assert not all(each.done() for each in slow), "the others waited for them"
        assert all("0.5 s" in str(each.exception()) for each in slow)
    renderer.close_idle_processes()


def test_a_long_chat_does_not_make_a_template_slow_for_short_ones() -> None:
    """A template that was slow with a long chat is not slow for short ones, which are not limited in number either."""
    template = "{% for a in range(length) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    renderer = TemplateRenderer(TemplateLimits(cpu_s=0.5))
    with pytest.raises(ChatTemplateError):
        renderer.render_template(template, {"length": 99_999})
    renderer._num_slow = MAX_SLOW_WAITING
    assert renderer.render_template(template, {"length": 0}) == ""
    for length in (99_999, 100_000):
        with pytest.raises(GatewayError):
            renderer.render_template(template, {"length": length})
    renderer.close_idle_processes()


def test_too_many_slow_templates_are_refused() -> None:
    renderer = TemplateRenderer(TemplateLimits(cpu_s=0.1))
    with pytest.raises(ChatTemplateError):
        renderer.render_template(SLOW, {})
    renderer._num_slow = MAX_SLOW_WAITING
    with pytest.raises(GatewayError) as raised:
        renderer.render_template(SLOW, {})
    assert raised.value.kind is ErrorKind.OVERLOADED and raised.value.retry_after_s
    assert renderer.render_template("a", {}) == "a"
    renderer.close_idle_processes()
