"""The conversion of request bodies of OpenAI's API into prompts in tokens, by the model's chat template or as they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.chat.ask import ChatAsk
from gateway.chat.prepare import ChatPrompt, encode_chat
from gateway.chat.request_template import check_may_send_template, compile_template
from gateway.errors import InvalidRequestError
from gateway.models.served_model import ServedModel
from gateway.openai.schemas import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    Prompt,
    TokenizeChatRequest,
)
from gateway.openai.text_rules import text_rule_of
from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.conversation import ChatEnding
from pagoda.api_keys.keyring import Caller
from pagoda.text.prompt_bound import Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A prompt in tokens."""

    token_ids: Sequence[int]
    text: str | None = None
    """The text that the client sent; None if it sent token ids, or if the prompt may be cut."""


async def request_template(
    body: ChatRequest | TokenizeChatRequest, model: ServedModel, caller: Caller, *, trusts_all: bool
) -> ChatTemplate | None:
    """Return the template that the body has, if it has one. Raises an error if the caller may not send it, or if it is wrong."""
    if not body.chat_template:
        return None
    check_may_send_template(caller, trusts_all=trusts_all, field="chat_template")
    return await compile_template(body.chat_template, model, "chat_template")


async def encode_asked_chat(
    body: ChatRequest, ask: ChatAsk, model: ServedModel, template: ChatTemplate | None
) -> ChatPrompt:
    """Return the prompt of a conversation, cut as the body says."""
    prompt = await encode_chat(ask, model, template, keep=_kept(body))
    return replace(prompt, token_ids=_cut(prompt.token_ids, body))


async def encode_prompts(body: CompletionRequest, model: ServedModel) -> list[EncodedPrompt]:
    """Return the prompts in tokens. They may be one or several texts or lists of token ids."""
    prompts = _prompts(body.prompt)
    if len(prompts) * body.num_choices > MAX_CHOICES:
        raise InvalidRequestError(
            f"prompt: {len(prompts)} prompts with n={body.num_choices} make too many choices; at most {MAX_CHOICES} are allowed",
            param="prompt",
        )
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    token_lists = [prompt for prompt in prompts if not isinstance(prompt, str)]
    for token_ids in token_lists:
        model.check_token_ids(token_ids, "prompt")
    if body.suffix:
        return [EncodedPrompt(token_ids=await model.encode_fill(prompt, body.suffix)) for prompt in prompts]
    if not texts:
        return [EncodedPrompt(token_ids=_cut(token_ids, body)) for token_ids in token_lists]
    keep = _kept(body)
    encoded = await model.encode_texts(texts, add_special_tokens=body.add_special_tokens is not False, keep=keep)
    return [
        EncodedPrompt(token_ids=_cut(token_ids, body), text=text if keep is Keep.ALL else None)
        for text, token_ids in zip(texts, encoded, strict=True)
    ]


def chat_ask(body: ChatRequest | TokenizeChatRequest, model: ServedModel) -> ChatAsk:
    """Return what the body asks of a chat, with the model's opening messages."""
    ask = ChatAsk(
        messages=model.with_opening_messages([message.as_asked() for message in body.messages]),
        ending=_ending(body),
        tools=body.offered_tools,
        thinks=body.thinks,
        template_variables=body.template_variables,
    )
    if isinstance(body, TokenizeChatRequest):
        return ask
    return replace(
        ask,
        tool_choice=body.chosen_tools,
        effort=body.reasoning_effort,
        thinking_budget=body.thinking_token_budget,
        documents=body.documents or (),
        text=text_rule_of(body),
    )


def without_effect(body: ChatRequest, template: ChatTemplate | None) -> tuple[str, ...]:
    """Return the names of fields that have no effect with this template."""
    knows_effort = template is not None and template.reads_effort
    return ("reasoning_effort",) if body.reasoning_effort not in (None, "none") and not knows_effort else ()


def _ending(body: ChatRequest | TokenizeChatRequest) -> ChatEnding:
    if body.continue_final_message:
        return ChatEnding.CONTINUED
    return ChatEnding.BEGUN if body.add_generation_prompt in (None, True) else ChatEnding.AS_IS


def _kept(body: ChatRequest | CompletionRequest) -> Keep:
    """Return which tokens to keep of a prompt that is too long."""
    if body.truncate_prompt_tokens is None:
        return Keep.ALL
    return Keep.FIRST if body.truncation_side == "right" else Keep.LAST


def _cut(token_ids: Sequence[int], body: ChatRequest | CompletionRequest) -> Sequence[int]:
    limit = body.truncate_prompt_tokens
    if limit is None or limit == -1:
        return token_ids
    return token_ids[:limit] if body.truncation_side == "right" else token_ids[-limit:]


def _prompts(prompt: Prompt) -> list[str | list[int]]:
    """Return the prompts as a list, all of them texts or all of them token ids."""
    match prompt:
        case str(text):
            return [text]
        case [int(), *_] as token_ids:
            return [list[int](token_ids)]  # type: ignore[arg-type]  # mypy does not see that all items are integers
        case several:
            return list(several)  # type: ignore[arg-type]
