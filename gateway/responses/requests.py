"""The conversion of a response's request and its conversation into a request for text."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gateway.answers.text_events import TextEvents
from gateway.answers.text_request import TextRequest, choose_sampling
from gateway.chat.ask import ChatAsk
from gateway.chat.prepare import ChatPrompt, encode_chat, with_answer_form
from gateway.chat.tool_definitions import make_tool, read_tool_choice
from gateway.constraints.json_rule import json_object_rule, json_schema_rule
from gateway.constraints.text_rule import TextRule
from gateway.http.fields import keep_alive_seconds, seed_bits, stop_strings
from gateway.http.http_context import HTTPContext
from gateway.models.served_model import ServedModel
from gateway.prompts.tools import Tool
from gateway.responses.ids import new_response_id
from gateway.responses.input_items import Item, check_results, complete_items, messages_of, referenced_ids
from gateway.responses.reply import ResponseReply
from gateway.responses.schemas import ResponseRequest, ResponseTextFormat, ToolChoiceObject
from gateway.responses.stored_responses import StoredResponse, StoredResponses
from gateway.state import GatewayState
from pagoda.models.sampling_defaults import OPENAI_CHAT
from pagoda.text.prompt_bound import Keep
from pagoda.wire.sampling import SamplingParams

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
    state: GatewayState, stored: StoredResponses, body: ResponseRequest, http: HTTPContext
) -> BegunResponse:
    """Check the request and make its prompt. Generation begins with the first event."""
    model = await state.models.find_or_pull(body.model or None)
    reply = ResponseReply(body, new_response_id(), model.name)
    earlier = [] if body.previous_response_id is None else await stored.conversation(body.previous_response_id)
    references = await stored.find_items(referenced_ids(body.input))
    given = complete_items(body.input, reply.id, references.__getitem__)
    history = [item for each in earlier for item in each.items]
    check_results([*history, *given], len(history))
    ask = chat_ask([*history, *given], body, model)
    prompt = await encode_chat(ask, model, keep=Keep.LAST if body.truncation == "auto" else Keep.ALL)
    asked = text_request(body, prompt, model)
    asked = await with_answer_form(asked, ask, prompt, model, state.grammars)
    [request] = await state.generator.fit_requests(model, [asked])
    reply.show_sampling(request.sampling)
    return BegunResponse(
        reply=reply,
        events=state.generator.generate_text(model, [request], http),
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
    effort = None if body.reasoning is None else body.reasoning.effort
    return ChatAsk(
        messages=model.with_opening_messages(messages),
        tools=tools,
        tool_choice=read_tool_choice(choice, tools, parallel=body.parallel_tool_calls),
        text=None if body.text is None else _text_rule(body.text.format),
        effort=effort,
    )


def text_request(body: ResponseRequest, prompt: ChatPrompt, model: ServedModel) -> TextRequest:
    """Return the request for the answer to a prompt."""
    choice = choose_sampling(_asked(body), model.defaults, OPENAI_CHAT, _request_only(body, model))
    return TextRequest(
        prompt_token_ids=tuple(prompt.token_ids),
        prompt_field="input",
        sampling=choice,
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        cut_to_fit=body.truncation == "auto",
        cache_salt=body.cache_salt or "",
        priority=body.priority,
        keep_alive_s=keep_alive_seconds(body.keep_alive),
    )


def _tools(body: ResponseRequest) -> tuple[Tool, ...]:
    return tuple(
        make_tool(tool.name, tool.description, tool.parameters, tool.strict, field=f"tools.{index}")
        for index, tool in enumerate(body.tools or ())
    )


def _text_rule(form: ResponseTextFormat | None) -> TextRule | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return json_object_rule(_FORMAT_FIELD)
    return json_schema_rule(form.schema_, f"{_FORMAT_FIELD}.schema")


def _asked(body: ResponseRequest) -> dict[str, Any]:
    """Return the sampling parameters of the body, under the names that all sources use. None leaves one open."""
    return {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "repeat_penalty": body.repetition_penalty,
        "repeat_last_n": None,
        "seed": None if body.seed is None else seed_bits(body.seed),
        "stop": None if body.stop is None else stop_strings(body.stop),
        "num_predict": body.max_output_tokens,
    }


def _request_only(body: ResponseRequest, model: ServedModel) -> SamplingParams:
    """Return the parameters that only a request can set."""
    stop_token_ids = tuple(body.stop_token_ids or ())
    model.check_token_ids(stop_token_ids, "stop_token_ids")
    bias = {int(token_id): value for token_id, value in (body.logit_bias or {}).items()}
    model.check_token_ids(bias, "logit_bias")
    return SamplingParams(
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        logit_bias=MappingProxyType(bias),
        stop_token_ids=stop_token_ids,
        num_logprobs=body.num_logprobs,
    )
