"""The conversion of a response's request and its conversation into a request for text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from gateway.answers.text_events import TextEvents
from gateway.answers.text_request import TextRequest, choose_sampling
from gateway.chat.ask import ChatAsk
from gateway.chat.prepare import ChatPrompt, encode_chat, with_answer_form
from gateway.chat.sampling_fields import asked_parameters, sampled_request, token_params
from gateway.chat.structured_outputs import structured_rule
from gateway.chat.template_variables import asked_thinking, without_thinking
from gateway.chat.tool_definitions import check_together, make_tool, read_tool_choice
from gateway.chat.truncation import Window, dropped_messages, encode_latest
from gateway.constraints.json_rule import json_object_rule, json_schema_rule
from gateway.constraints.text_rule import TextRule
from gateway.http.bodies import BodyReader
from gateway.http.http_context import HTTPContext, note_truncation
from gateway.models.served_model import ServedModel
from gateway.prompts.tools import Tool
from gateway.responses.ids import new_response_id
from gateway.responses.input_items import Item, check_results, complete_items, messages_of, referenced_ids
from gateway.responses.reply import ResponseReply
from gateway.responses.schemas import ResponseRequest, ToolChoiceObject
from gateway.responses.stored_responses import StoredResponse, StoredResponses
from gateway.state import GatewayState
from pagoda.models.sampling_defaults import OPENAI_CHAT

_FORMAT_FIELD = "text.format"


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunResponse:
    """A response whose generation can begin."""

    reply: ResponseReply
    events: TextEvents
    input: list[Item]
    chain: list[str]
    """Ids of the responses before it in its conversation, the first one first."""
    stored: StoredResponses
    is_stored: bool

    async def store(self) -> None:
        """Store the response as it is now, unless the client does not want that."""
        if self.is_stored:
            await self.stored.put(StoredResponse(response=self.reply.response, input=self.input, chain=self.chain))


async def begin_response(
    request: Request, state: GatewayState, stored: StoredResponses, body: ResponseRequest, http: HTTPContext
) -> BegunResponse:
    """Check the request and make its prompt. Generation, in the name of `http`, begins with the first event."""
    model = await state.models.find_or_pull(body.model or None)
    reply = ResponseReply(body, new_response_id(), model.name)
    earlier = [] if body.previous_response_id is None else await stored.conversation(body.previous_response_id)
    references = await stored.find_items(referenced_ids(body.input))
    given = complete_items(body.input, reply.id, references.__getitem__)
    history = [item for each in earlier for item in each.items]
    check_results([*history, *given], len(history))
    ask = chat_ask([*history, *given], body, model)
    prompt, num_dropped = await _encode(ask, body, state, model)
    _note_what_is_not_followed(request, body, model, num_dropped)
    asked = await with_answer_form(text_request(body, prompt, model), ask, prompt, model, state.grammars)
    [fitted] = await state.generator.fit_requests(model, [asked])
    reply.show_sampling(fitted.sampling)
    return BegunResponse(
        reply=reply,
        events=state.generator.generate_text(model, [fitted], http),
        input=given,
        chain=[each.id for each in earlier],
        stored=stored,
        is_stored=body.is_stored,
    )


def chat_ask(items: Sequence[Item], body: ResponseRequest, model: ServedModel) -> ChatAsk:
    """Return what the response asks of a chat."""
    messages = messages_of(items, body.instructions)
    tools = _tools(body)
    choice = body.tool_choice.model_dump() if isinstance(body.tool_choice, ToolChoiceObject) else body.tool_choice
    variables = body.chat_template_kwargs or {}
    return ChatAsk(
        messages=model.with_opening_messages(messages),
        tools=tools,
        tool_choice=read_tool_choice(choice, tools, parallel=body.parallel_tool_calls),
        text=_text_rule(body),
        thinks=asked_thinking(variables),
        effort=None if body.reasoning is None else body.reasoning.effort,
        thinking_budget=body.thinking_token_budget,
        template_variables=without_thinking(variables),
    )


async def _encode(
    ask: ChatAsk, body: ResponseRequest, state: GatewayState, model: ServedModel
) -> tuple[ChatPrompt, int]:
    """Return the prompt, and the number of messages that it leaves out because they do not fit into the window."""
    if body.truncation != "auto":
        return await encode_chat(ask, model), 0

    async def encode(latest: Sequence[Mapping[str, Any]]) -> ChatPrompt:
        return await encode_chat(replace(ask, messages=latest), model)

    window = Window(num_tokens=await state.generator.window_of(model), max_tokens=body.max_output_tokens)
    return await encode_latest(ask.messages, encode, window, field="input")


def text_request(body: ResponseRequest, prompt: ChatPrompt, model: ServedModel) -> TextRequest:
    """Return the request for the answer to a prompt."""
    request_only = replace(token_params(body, model), num_logprobs=body.num_logprobs)
    asked = asked_parameters(body, body.max_output_tokens)
    choice = choose_sampling(asked, model.defaults, OPENAI_CHAT, request_only)
    return sampled_request(body, prompt.token_ids, choice, "input")


def _note_what_is_not_followed(request: Request, body: ResponseRequest, model: ServedModel, num_dropped: int) -> None:
    """Say in headers which fields have no effect with this model, and how many messages were dropped."""
    effort = None if body.reasoning is None else body.reasoning.effort
    reads_effort = model.chat_template is not None and model.chat_template.reads_effort
    if effort not in (None, "none") and not reads_effort:
        bodies: BodyReader = request.app.state.bodies
        bodies.note_without_effect(request, ("reasoning.effort",))
    if num_dropped:
        note_truncation(request, dropped_messages(num_dropped))


def _tools(body: ResponseRequest) -> tuple[Tool, ...]:
    made = tuple(
        make_tool(tool.name, tool.description, tool.parameters, tool.strict, field=f"tools.{index}")
        for index, tool in enumerate(body.tools or ())
    )
    check_together(made, "tools")
    return made


def _text_rule(body: ResponseRequest) -> TextRule | None:
    if body.structured_outputs is not None:
        return structured_rule(body.structured_outputs, "structured_outputs")
    form = None if body.text is None else body.text.format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return json_object_rule(_FORMAT_FIELD)
    return json_schema_rule(form.schema_, f"{_FORMAT_FIELD}.schema")
