"""A comparison of templates rendered by Pagoda and by transformers: `python -m tests.templates.compare DIRECTORY…`.

Each `.jinja` file of the directories is a template. Equal means the same text, or a refusal on both sides. With `--minijinja`,
that engine is compared (`pip install minijinja`): docs/adr/0010-templates-in-a-process.md.
"""

import argparse
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

from gateway.prompts.template_renderer import ChatTemplateError, shared_renderer
from tests.templates.conversations import CONVERSATIONS

SPECIAL_TEXTS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
GENERATION_TAG = re.compile(r"(\{%-?)\s*(end)?generation\s*(-?%\})")

Messages = list[dict[str, Any]]
Render = Callable[[str, Messages, Mapping[str, Any]], str]


class Difference(NamedTuple):
    conversation: str
    theirs: str | None
    """Text of transformers; None if the template refuses the conversation."""
    ours: str | None


def differences(source: str, render: Render) -> Iterator[Difference]:
    for name, (messages, variables) in CONVERSATIONS.items():
        given = {"add_generation_prompt": True, **SPECIAL_TEXTS, **variables}
        theirs, ours = (_rendered(each, source, messages, given) for each in (as_transformers, render))
        if theirs != ours:
            yield Difference(name, theirs, ours)


def as_transformers(source: str, messages: Messages, variables: Mapping[str, Any]) -> str:
    rendered, _ = render_jinja_template([messages], chat_template=source, **variables)
    return str(rendered[0])


def as_pagoda(source: str, messages: Messages, variables: Mapping[str, Any]) -> str:
    return shared_renderer().render_template(source, _whole(messages, variables))


def as_minijinja(source: str, messages: Messages, variables: Mapping[str, Any]) -> str:
    environment = importlib.import_module("minijinja").Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        auto_escape_callback=lambda _: False,
        finalizer=lambda value: "None" if value is None else NotImplemented,
    )
    environment.add_test("iterable", lambda value: isinstance(value, list | dict | str))
    environment.add_filter("tojson", _to_json)
    environment.add_global("raise_exception", _raise)
    environment.add_global("strftime_now", lambda layout: datetime.now().strftime(layout))
    tagless = GENERATION_TAG.sub(lambda tag: f"{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}", source)
    return str(environment.render_str(tagless, **_whole(messages, variables)))


def _whole(messages: Messages, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers passes to a template: absent tools and documents are null, and reasoning has two names."""
    named = [
        {"thinking": message["reasoning_content"], **message} if "reasoning_content" in message else message
        for message in messages
    ]
    return {"tools": None, "documents": None, **variables, "messages": named}


def _rendered(render: Render, source: str, messages: Messages, variables: Mapping[str, Any]) -> str | None:
    try:
        return render(source, json.loads(json.dumps(messages)), variables)
    except ChatTemplateError:
        return None
    except Exception:  # a template may cause any error in transformers and minijinja
        return None


def _to_json(value: Any, **options: Any) -> Any:
    return importlib.import_module("minijinja").safe(json.dumps(value, **{"ensure_ascii": False, **options}))


def _raise(message: str) -> None:
    raise ValueError(message)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--minijinja", action="store_true")
    options = parser.parse_args(arguments)
    files = [file for directory in options.directories for file in sorted(directory.glob("*.jinja"))]
    num_equal = num_different = 0
    for file in files:
        source = file.read_text(encoding="utf-8")
        found = list(differences(source, as_minijinja if options.minijinja else as_pagoda))
        num_equal, num_different = num_equal + (not found), num_different + len(found)
        for each in found:
            print(f"{file.name}: {each.conversation}: {_excerpt(each.theirs, each.ours)}")
    print(
        f"{num_equal} of {len(files)} templates equal; {num_different} of {len(files) * len(CONVERSATIONS)} conversations differ"
    )
    return 0 if num_equal == len(files) else 1


def _excerpt(theirs: str | None, ours: str | None) -> str:
    """Return an excerpt from the first difference of the texts."""
    if theirs is None or ours is None:
        return "refused by transformers only" if theirs is None else "refused here only"
    start = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), 0)
    return f"{theirs[start : start + 60]!r} became {ours[start : start + 60]!r}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
