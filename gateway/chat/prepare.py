"""The way from a client's ask to a request for text: the prompt in tokens, the constraint of the answer and its parser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gateway.answers.text_request import TextRequest
from gateway.chat.ask import ChatAsk
from gateway.chat.described_tools import in_plain_messages
from gateway.chat.history import template_messages
from gateway.constraints.answer_constraint import answer_constraint
from gateway.constraints.answer_form import AnswerForm
from gateway.constraints.compiler import GrammarCompiler
from gateway.errors import InvalidRequestError, PromptTooLongError
from gateway.models.served_model import ServedModel
from gateway.parsing.output_parser import OutputParser
from gateway.prompts.chat_template import EFFORT_VARIABLE, ChatTemplate
from gateway.prompts.conversation import Conversation
from gateway.prompts.reasoning_start import ReasoningStart, find_reasoning_start
from gateway.prompts.tools import Tool, ToolChoice, ToolMode
from pagoda.models.output_formats.description import OutputFormat, described_formats
from pagoda.text.prompt_bound import Keep

_DESCRIBED_CALLS = "fallback"
"""The format of calls for a chat template that knows no tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A rendered conversation in tokens."""

    token_ids: Sequence[int]
    reasoning: ReasoningStart
    """The state of the reasoning at the end of the prompt."""
    text: str
    """The prompt as the template wrote it."""
    format: OutputFormat
    """The format of the answer."""
    template_has_tools: bool = True
    """True if the template describes the tools. Otherwise the gateway does, to a model that has not learnt to call them."""


async def encode_chat(
    ask: ChatAsk, model: ServedModel, template: ChatTemplate | None = None, *, keep: Keep = Keep.ALL
) -> ChatPrompt:
    """Return the prompt, rendered with `template` or else the model's own. The messages include the model's opening ones.

    Raises InvalidRequestError if the model or its template cannot do what is asked.
    """
    template = template or model.own_template()
    output_format = _answer_format(model, template)
    conversation = _conversation(ask, model, template, output_format)
    try:
        encoded = await model.render_chat(conversation, template, keep=keep)
    except PromptTooLongError:
        raise
    except InvalidRequestError as error:
        if not _adds_system(ask, model, template):
            raise
        # Some templates refuse a system message. The error of a conversation that is wrong otherwise is the first one.
        conversation = _conversation(ask, model, template, output_format, may_add_system=False)
        try:
            encoded = await model.render_chat(conversation, template, keep=keep)
        except InvalidRequestError:
            raise error from None
    return ChatPrompt(
        token_ids=encoded.token_ids,
        reasoning=find_reasoning_start(
            encoded.prompt.text,
            output_format.reasoning,
            is_off=conversation.thinks is False and template.can_think,
            continued=encoded.prompt.continued,
        ),
        text=encoded.prompt.plain_text,
        format=output_format,
        template_has_tools=_describes_tools(model, template),
    )


async def with_answer_form(
    request: TextRequest, ask: ChatAsk, prompt: ChatPrompt, model: ServedModel, grammars: GrammarCompiler
) -> TextRequest:
    """Return the request with the constraint of the answer and its parser.

    Raises InvalidRequestError, with the field and the reason, if the constraint cannot be used.
    """
    tools, output_format = _offered(ask), prompt.format
    form = AnswerForm(
        output_format=output_format,
        reasoning=prompt.reasoning,
        text=ask.text,
        tools=tools,
        choice=_choice(ask, prompt),
        thinking_budget=ask.thinking_budget,
    )
    constraint = await answer_constraint(grammars, model, form)
    params = replace(request.sampling.params, constraint=constraint)
    request = replace(request, sampling=replace(request.sampling, params=params))
    if not tools and prompt.reasoning is ReasoningStart.NONE and not output_format.answer_markers:
        return request  # the whole output is text
    open_parser = partial(
        OutputParser,
        output_format,
        model.tokenizer,
        reasoning=prompt.reasoning,
        tools=tools,
        skip_special_tokens=request.skip_special_tokens,
    )
    return replace(request, open_parser=open_parser)


def _choice(ask: ChatAsk, prompt: ChatPrompt) -> ToolChoice:
    """Return the client's choice among its tools, as far as the model can make the rest of it.

    A model that has not learnt to call tools cannot tell how many calls are enough: where it has to make one, it repeats
    the same one without end.
    """
    if prompt.template_has_tools or ask.tool_choice.mode is not ToolMode.REQUIRED:
        return ask.tool_choice
    return replace(ask.tool_choice, parallel=False)


def _answer_format(model: ServedModel, template: ChatTemplate) -> OutputFormat:
    """Return the format of the answer: the model's own, with calls as the gateway describes them if the template does not."""
    own = model.output.format
    if _describes_tools(model, template):
        return own
    return replace(own, calls=described_formats()[_DESCRIBED_CALLS].calls)


def _adds_system(ask: ChatAsk, model: ServedModel, template: ChatTemplate) -> bool:
    """Return True if the conversation gets a system message that describes the tools."""
    has_system = bool(ask.messages) and ask.messages[0]["role"] == "system"
    return bool(_offered(ask)) and not _describes_tools(model, template) and not has_system


def _describes_tools(model: ServedModel, template: ChatTemplate) -> bool:
    """Return True if the template describes the tools, and the model's calls have a known form."""
    return template.reads_tools and model.output.template_has_tools


def _conversation(
    ask: ChatAsk,
    model: ServedModel,
    template: ChatTemplate,
    output_format: OutputFormat,
    *,
    may_add_system: bool = True,
) -> Conversation:
    if ask.documents and not template.reads_documents:
        raise InvalidRequestError(
            f"documents: the chat template of `{model.name}` does not read documents; put them into a message instead",
            param="documents",
        )
    calls, tools = output_format.calls, _offered(ask)
    assert calls is not None, "each format of answers has calls"
    messages: Sequence[Mapping[str, Any]] = template_messages(ask.messages, id_length=calls.id_length)
    if not _describes_tools(model, template):
        messages, tools = in_plain_messages(messages, tools, calls, may_add_system=may_add_system), ()
    is_off, effort = ask.effort == "none", {}
    if ask.effort is not None and not is_off:
        effort = {EFFORT_VARIABLE: template.effort_for(ask.effort)}
    return Conversation(
        messages=messages,
        ending=ask.ending,
        thinks=False if is_off else ask.thinks,
        tools=tools,
        documents=ask.documents,
        variables=effort | dict(ask.template_variables),
    )


def _offered(ask: ChatAsk) -> tuple[Tool, ...]:
    """Return the tools that the model may call."""
    if ask.tool_choice.mode is ToolMode.NONE:
        return ()
    return ask.tools
