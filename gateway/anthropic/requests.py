"""The conversion of request bodies of Anthropic's API into what they ask of a chat, and into requests for text."""

from collections.abc import Sequence

from gateway.answers.text_request import TextRequest, choose_sampling
from gateway.anthropic.conversation import conversation_messages
from gateway.anthropic.schemas import CountTokensRequest, MessagesRequest, Tool, ToolChoice
from gateway.chat.ask import ChatAsk
from gateway.chat.prepare import ChatPrompt
from gateway.chat.template_variables import without_thinking
from gateway.chat.tool_definitions import check_together, make_tool
from gateway.constraints.json_rule import json_schema_rule
from gateway.constraints.text_rule import TextRule
from gateway.errors import InvalidRequestError
from gateway.http.fields import stop_strings
from gateway.models.served_model import ServedModel
from gateway.prompts import tools as chat_tools
from gateway.prompts.conversation import ChatEnding
from gateway.prompts.tools import ToolMode
from pagoda.models.sampling_defaults import OPENAI_CHAT
from pagoda.wire.sampling import SamplingParams

_MODES = {"auto": ToolMode.AUTO, "any": ToolMode.REQUIRED, "tool": ToolMode.REQUIRED, "none": ToolMode.NONE}


def chat_ask(body: CountTokensRequest, model: ServedModel, *, thinks: bool | None) -> ChatAsk:
    """Return what the body asks of a chat. If the last message is the assistant's and has no calls, the model continues it."""
    messages = model.with_opening_messages(conversation_messages(body))
    if not messages:
        raise InvalidRequestError("messages: there is no text in any message", param="messages")
    is_begun = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    return ChatAsk(
        messages=messages,
        ending=ChatEnding.CONTINUED if is_begun else ChatEnding.BEGUN,
        text=_text_rule(body),
        tools=_tools(body.tools or ()),
        tool_choice=_choice(body.tool_choice),
        thinks=thinks,
        effort=body.output_config.effort if body.output_config else None,
        thinking_budget=body.thinking.budget_tokens if thinks and body.thinking else None,
        template_variables=without_thinking(body.chat_template_kwargs or {}),
    )


def text_request(body: MessagesRequest, prompt: ChatPrompt, model: ServedModel) -> TextRequest:
    """Return the request for the answer."""
    asked = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": None if body.stop_sequences is None else stop_strings(body.stop_sequences),
        "num_predict": body.max_tokens,
    }
    return TextRequest(
        prompt_token_ids=tuple(prompt.token_ids),
        prompt_field="messages",
        sampling=choose_sampling(asked, model.defaults, OPENAI_CHAT, SamplingParams()),
        cache_salt=body.cache_salt or "",
    )


def _tools(tools: Sequence[Tool]) -> tuple[chat_tools.Tool, ...]:
    made = tuple(
        make_tool(
            tool.name,
            tool.description,
            tool.input_schema,
            tool.strict,
            field=f"tools.{index}",
            schema_name="input_schema",
        )
        for index, tool in enumerate(tools)
    )
    check_together(made, "tools")
    return made


def _text_rule(body: CountTokensRequest) -> TextRule | None:
    """Return the rule for the text of the answer, or None if it is free."""
    if body.output_format is not None:
        return json_schema_rule(body.output_format.json_schema, "output_format.schema")
    if body.output_config is not None and body.output_config.format is not None:
        return json_schema_rule(body.output_config.format.json_schema, "output_config.format.schema")
    return None


def _choice(choice: ToolChoice | None) -> chat_tools.ToolChoice:
    if choice is None:
        return chat_tools.ToolChoice()
    return chat_tools.ToolChoice(
        mode=_MODES[choice.type],
        names=None if choice.name is None or choice.type != "tool" else frozenset({choice.name}),
        # A choice of one tool is a choice of one call.
        parallel=choice.type != "tool" and not choice.disable_parallel_tool_use,
    )
