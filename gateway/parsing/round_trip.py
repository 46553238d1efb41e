"""The proof of a model's output format: a known call that the chat template writes must be read back by the parser."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.parsing.output_parser import OutputParser
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan
from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.conversation import ChatEnding, Conversation
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.template_renderer import ChatTemplateError
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import OutputFormat
from pagoda.text.tokenizer import Tokenizer

_NAME = "get_weather"
_ARGUMENTS = {"city": "Paris", "country": "France"}
_PARAMETERS = {
    "type": "object",
    "properties": {name: {"type": "string", "description": f"The {name}."} for name in _ARGUMENTS},
    "required": list(_ARGUMENTS),
}
_FUNCTION = {"name": _NAME, "description": "Return the weather of a city.", "parameters": _PARAMETERS}
_TOOL = Tool(
    name=_NAME,
    description=str(_FUNCTION["description"]),
    parameters=_PARAMETERS,
    given={"type": "function", "function": _FUNCTION},
)
_QUESTION: Mapping[str, Any] = {"role": "user", "content": "How is the weather?"}
_ID = "call00001"
"""An id in the form that Mistral's templates demand."""
_MAX_MARKER = 40


class TokenNames:
    """The tokens of a vocabulary by their text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __contains__(self, text: object) -> bool:
        """Return True if the text is a single token."""
        if text in self._tokenizer.special_tokens:
            return True
        return isinstance(text, str) and len(self._tokenizer.encode(text, add_special_tokens=False)) == 1


def prove_format(output_format: OutputFormat, template: ChatTemplate, tokenizer: Tokenizer) -> str:
    """Return an empty text if a call comes back with its name and arguments, else what went wrong."""
    try:
        written = _written_call(template, output_format)
    except ChatTemplateError as error:
        return f"the chat template accepts no tool call: {error}"
    ids = tokenizer.encode(written, add_special_tokens=False)
    # The reasoning that may be before the call is of no interest here.
    parser = OutputParser(
        replace(output_format, reasoning=None), tokenizer, reasoning=ReasoningStart.NONE, tools=(_TOOL,)
    )
    parts = [part for token_id in ids for part in parser.add_token(token_id)] + parser.finish()
    return _difference(parts, written)


def _written_call(template: ChatTemplate, output_format: OutputFormat) -> str:
    """Return the call as the template writes it, with what may be before it in an answer."""
    calls = output_format.calls
    form = calls.id_form if calls else ""
    call = {
        "id": form.replace("{name}", _NAME).replace("{index}", "0") or _ID,
        "type": "function",
        "function": {"name": _NAME, "arguments": _ARGUMENTS},
    }
    answer: Mapping[str, Any] = {"role": "assistant", "content": "", "tool_calls": [call]}
    asked = Conversation(messages=[_QUESTION], tools=(_TOOL,))
    called = Conversation(messages=[_QUESTION, answer], ending=ChatEnding.AS_IS, tools=(_TOOL,))
    prompt, whole = (template.render_prompt(each).text for each in (asked, called))
    length = 0
    for before, after in zip(prompt, whole, strict=False):
        if before != after:
            break
        length += 1
    # The prompt may continue with another marker, which begins like the call's.
    return whole[length:] if length == len(prompt) else whole[max(0, length - _MAX_MARKER) :]


def _difference(parts: Sequence[AnswerPart], written: str) -> str:
    names = [part.name for part in parts if isinstance(part, CallBegan)]
    text = "".join(part.text for part in parts if isinstance(part, CallArguments))
    try:
        arguments = json.loads(text) if text else None
    except ValueError:
        arguments = None
    if names == [_NAME] and arguments == _ARGUMENTS:
        return ""
    if _NAME not in written:
        return "the chat template leaves calls of earlier turns out"
    return f"the chat template writes a call as {written[:200]!r}, of which {names} with {text[:200]!r} is read"
