"""The way from a client's ask to a request for text: the prompt in tokens, the constraint of the answer and its parser."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from gateway.answers.text_request import TextRequest
from gateway.chat.ask import ChatAsk
from gateway.constraints.compiler import GrammarCompiler
from gateway.constraints.compose import compose_constraint
from gateway.models.served_model import ServedModel
from gateway.parsing.output_parser import OutputParser
from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.conversation import Conversation
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool, ToolMode
from pagoda.text.prompt_bound import Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A rendered conversation in tokens."""

    token_ids: Sequence[int]
    reasoning: ReasoningStart
    """Start of the reasoning, as the end of the prompt shows it."""


async def encode_chat(
    ask: ChatAsk, model: ServedModel, template: ChatTemplate | None = None, *, keep: Keep = Keep.ALL
) -> ChatPrompt:
    """Return the prompt, rendered with `template` or else the model's own. The messages include the model's opening ones."""
    conversation = Conversation(
        messages=ask.messages,
        ending=ask.ending,
        thinks=ask.thinks,
        tools=_offered(ask),
        documents=ask.documents,
        variables=ask.template_variables,
    )
    token_ids = await model.encode_chat(conversation, template, keep=keep)
    return ChatPrompt(token_ids=token_ids, reasoning=ReasoningStart.NONE)


async def with_answer_form(
    request: TextRequest, ask: ChatAsk, prompt: ChatPrompt, model: ServedModel, grammars: GrammarCompiler
) -> TextRequest:
    """Return the request with the constraint of the answer and its parser.

    Raises InvalidRequestError, with the field and the reason, if the constraint cannot be used.
    """
    constraint = compose_constraint(
        model.output.format,
        model.tokenizer,
        reasoning=prompt.reasoning,
        text=ask.text,
        tools=_offered(ask),
        choice=ask.tool_choice,
        thinking_budget=ask.thinking_budget,
    )
    if constraint is not None and constraint.grammar:
        await grammars.check_grammar(model, constraint.grammar, ask.text.field if ask.text else "tools")
    open_parser = partial(
        OutputParser,
        model.output.format,
        model.tokenizer,
        reasoning=prompt.reasoning,
        tools=_offered(ask),
        skip_special_tokens=request.skip_special_tokens,
    )
    params = replace(request.sampling.params, constraint=constraint)
    return replace(request, sampling=replace(request.sampling, params=params), open_parser=open_parser)


def _offered(ask: ChatAsk) -> tuple[Tool, ...]:
    """Return the tools that the model may call."""
    if ask.tool_choice.mode is ToolMode.NONE:
        return ()
    return ask.tools
