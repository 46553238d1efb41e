"""From the bodies of /api/chat and /api/generate to prompts in tokens that fit into the window."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from gateway.models.served_model import ServedModel, no_thinking
from gateway.ollama.schemas import GenerateRequest, OllamaChatRequest
from gateway.ollama.truncation import Message, Window, cut_beginning, encode_latest
from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.conversation import ChatEnding, Conversation
from gateway.prompts.template_renderer import ChatTemplateError, rendering_threads, shared_renderer
from pagoda.api_keys.key_file import Scope
from pagoda.api_keys.keyring import Caller
from pagoda.models.formats.chat_template_text import is_go_template
from pagoda.text.prompt_bound import Keep

FindWindow = Callable[[], Awaitable[Window]]
"""What the model's window is: asked of the schedulers, only where a prompt may be cut."""

# Any turn will do: only what a template writes between two turns is taken from it.
_EARLIER_TURN = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPrompt:
    token_ids: Sequence[int]
    left_out: str = ""
    """What of it the window had no room for, as the client is told: `6 messages`, or `120 tokens`."""


def refuse_go_template(source: str) -> None:
    if is_go_template(source):
        raise InvalidRequestError(
            "template: Go templates are not supported yet; write it in Jinja, as Hugging Face's chat templates, "
            "or leave it out to use the model's own",
            param="template",
        )


async def check_template(source: str) -> None:
    """Refuse a template that could not be used, with the reason."""
    refuse_go_template(source)
    try:
        check = partial(shared_renderer().check_template, source, is_foreign=True)
        await asyncio.get_running_loop().run_in_executor(rendering_threads, check)
    except ChatTemplateError as error:
        raise InvalidRequestError(f"template: {error}", param="template") from None


def check_prompt_parts(body: GenerateRequest, model: ServedModel, caller: Caller, *, trusts_templates: bool) -> None:
    """Refuse a template or a context that the request may not have, whether there is anything to generate or not."""
    if body.template and not trusts_templates and Scope.ADMIN not in caller.scopes:
        raise GatewayError(
            ErrorKind.FORBIDDEN,
            f"template: this needs the scope '{Scope.ADMIN}', which the API key '{caller.key_name}' has not, or a gateway "
            f"with --trust-request-chat-template; leave it out to use the model's own.",
            param="template",
        )
    refuse_go_template(body.template or "")
    model.check_token_ids(body.context or (), "context")


async def encode_chat(body: OllamaChatRequest, model: ServedModel, window: FindWindow) -> FittedPrompt:
    """Return the prompt of a chat, without its oldest turns where the window has no room for them."""
    messages = model.with_opening_messages(
        [{"role": message.role, "content": message.content} for message in body.messages or ()]
    )
    # An answer that has begun is continued.
    ending = ChatEnding.CONTINUED if messages[-1]["role"] == "assistant" else ChatEnding.BEGUN

    async def encode(latest: Sequence[Message]) -> list[int]:
        return await model.encode_chat(Conversation(messages=latest, ending=ending, thinks=body.think))

    if body.truncate is False:
        return FittedPrompt(token_ids=await encode(messages))
    token_ids, num_dropped = await encode_latest(messages, encode, await window())
    left_out = f"{num_dropped} message{'s' if num_dropped > 1 else ''}" if num_dropped else ""
    return FittedPrompt(token_ids=token_ids, left_out=left_out)


async def encode_prompt(body: GenerateRequest, model: ServedModel, window: FindWindow) -> FittedPrompt:
    """Return the prompt: raw, through a template, or behind an earlier turn's context; without its beginning where needed."""
    if body.truncate is False:
        return FittedPrompt(token_ids=await _encode_whole(body, model, Keep.ALL))
    whole = await _encode_whole(body, model, Keep.LAST)
    token_ids = cut_beginning(whole, await window(), len(model.tokenizer.bos_prefix()))
    num_dropped = len(whole) - len(token_ids)
    return FittedPrompt(token_ids=token_ids, left_out=f"{num_dropped} tokens" if num_dropped else "")


async def _encode_whole(body: GenerateRequest, model: ServedModel, keep: Keep) -> list[int]:
    """Return the whole prompt's tokens; `keep` says what becomes of one that is far too long."""
    prompt = body.prompt or ""
    if body.raw:
        return await model.encode_text(prompt, keep=keep)
    context, template = body.context or [], await _template(body, model)
    if template is None and model.has_no_template:
        if body.system:
            raise InvalidRequestError(
                f"The model `{model.name}` has no template that could show a system prompt.", param="system"
            )
        if body.think:
            raise no_thinking(model.name)
        return [*context, *await model.encode_text(prompt, add_special_tokens=not context, keep=keep)]
    if context:
        return _joined(context, await _encode_next_turn(body, model, template, keep), model)
    system = [{"role": "system", "content": body.system}] if body.system else []
    messages = model.with_opening_messages([*system, {"role": "user", "content": prompt}])
    return await model.encode_chat(Conversation(messages=messages, thinks=body.think), template, keep=keep)


async def _template(body: GenerateRequest, model: ServedModel) -> ChatTemplate | None:
    if not body.template:
        return None
    refuse_go_template(body.template)
    try:
        return await model.compile_template(body.template)
    except ChatTemplateError as error:
        raise InvalidRequestError(f"template: {error}", param="template") from None


async def _encode_next_turn(
    body: GenerateRequest, model: ServedModel, template: ChatTemplate | None, keep: Keep
) -> list[int]:
    """Return what a template writes behind the end of an answer, without another beginning or system prompt of its own."""

    async def encode(
        messages: Sequence[Message], ending: ChatEnding = ChatEnding.BEGUN, keep: Keep = Keep.ALL
    ) -> list[int]:
        conversation = Conversation(messages=messages, ending=ending, thinks=body.think)
        return await model.encode_chat(conversation, template, keep=keep)

    turn = {"role": "user", "content": body.prompt or ""}
    if body.system:
        return await encode([{"role": "system", "content": body.system}, turn], keep=keep)
    before = await encode(_EARLIER_TURN, ChatEnding.CONTINUED)
    whole = await encode([*_EARLIER_TURN, turn])
    # Where a template does not show the turns one after the other, the new one stands there as if it were the first.
    return whole[len(before) :] if whole[: len(before)] == before else await encode([turn], keep=keep)


def _joined(context: Sequence[int], turn: Sequence[int], model: ServedModel) -> list[int]:
    """Join them, but write the token that ended the earlier answer, which is in its context, only once."""
    ended = bool(context) and context[-1] in model.model.eos_token_ids and list(turn[:1]) == [context[-1]]
    return [*context, *(turn[1:] if ended else turn)]
