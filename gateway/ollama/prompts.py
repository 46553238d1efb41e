"""The conversion of the bodies of /api/chat and /api/generate into prompts in tokens that fit into the window."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from gateway.chat.ask import ChatAsk
from gateway.chat.prepare import ChatPrompt
from gateway.chat.prepare import encode_chat as encode_ask
from gateway.chat.request_template import as_jinja, check_may_send_template, compile_template
from gateway.chat.truncation import Message, Window, cut_beginning, dropped_messages, encode_latest
from gateway.errors import InvalidRequestError
from gateway.models.served_model import ServedModel, no_thinking
from gateway.ollama.asks import prompt_ask
from gateway.ollama.schemas import GenerateRequest, OllamaChatRequest
from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.conversation import ChatEnding
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.template_renderer import ChatTemplateError, rendering_threads, shared_renderer
from pagoda.api_keys.keyring import Caller
from pagoda.text.prompt_bound import Keep

FindWindow = Callable[[], Awaitable[Window]]
"""A function that returns the model's window. It asks the schedulers, so it is called only if a prompt may be cut."""

# An example of an earlier turn. It shows what a template writes between two turns.
_EARLIER_TURN = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPrompt:
    """A prompt. It fits into the window unless the request forbids truncation."""

    prompt: ChatPrompt
    left_out: str = ""
    """The part that was dropped, for a response header: `6 messages` or `120 tokens`. Empty if the prompt is whole."""


async def check_template(source: str) -> None:
    """Raise an error with the reason if the template in Jinja cannot be used."""
    try:
        check = partial(shared_renderer().check_template, source, is_foreign=True)
        await asyncio.get_running_loop().run_in_executor(rendering_threads, check)
    except ChatTemplateError as error:
        raise InvalidRequestError(f"template: {error}", param="template") from None


def check_prompt_parts(body: GenerateRequest, model: ServedModel, caller: Caller, *, trusts_templates: bool) -> None:
    """Raise an error if the caller may not send a template, or if the template or the context is not valid."""
    if body.template:
        check_may_send_template(caller, trusts_all=trusts_templates, field="template")
        as_jinja(body.template, "template")
    model.check_token_ids(body.context or (), "context")


async def encode_chat(body: OllamaChatRequest, ask: ChatAsk, model: ServedModel, window: FindWindow) -> FittedPrompt:
    """Return the prompt of a chat, without its oldest turns if the window has no room for them."""

    async def encode(latest: Sequence[Message]) -> ChatPrompt:
        return await encode_ask(replace(ask, messages=latest), model)

    if body.truncate is False:
        return FittedPrompt(prompt=await encode(ask.messages))
    prompt, num_dropped = await encode_latest(ask.messages, encode, await window())
    return FittedPrompt(prompt=prompt, left_out=dropped_messages(num_dropped))


async def encode_prompt(body: GenerateRequest, model: ServedModel, window: FindWindow) -> FittedPrompt:
    """Return the prompt: raw, by a template, or after an earlier turn's context. Its beginning is cut if it is too long.

    A prompt with a suffix is never cut, because its first token is a marker.
    """
    if body.truncate is False or body.suffix:
        return FittedPrompt(prompt=await _encode_whole(body, model, Keep.ALL))
    whole = await _encode_whole(body, model, Keep.LAST)
    token_ids = cut_beginning(whole.token_ids, await window(), len(model.tokenizer.bos_prefix()))
    num_dropped = len(whole.token_ids) - len(token_ids)
    left_out = f"{num_dropped} tokens" if num_dropped else ""
    return FittedPrompt(prompt=replace(whole, token_ids=token_ids), left_out=left_out)


async def _encode_whole(body: GenerateRequest, model: ServedModel, keep: Keep) -> ChatPrompt:
    """Return the whole prompt. `keep` says which tokens remain of a prompt that is far too long."""
    prompt = body.prompt or ""
    if body.suffix:
        return _plain(model, await model.encode_fill(prompt, body.suffix))
    if body.raw:
        return _plain(model, await model.encode_text(prompt, keep=keep))
    context = body.context or []
    template = await compile_template(body.template, model, "template") if body.template else None
    if template is None and model.has_no_template:
        if body.system:
            raise InvalidRequestError(
                f"The model `{model.name}` has no template for a system prompt. Leave out `system`.", param="system"
            )
        if body.think:
            raise no_thinking(model.name)
        return _plain(model, [*context, *await model.encode_text(prompt, add_special_tokens=not context, keep=keep)])
    if context:
        turn = await _encode_next_turn(body, model, template, keep)
        return replace(turn, token_ids=_joined(context, turn.token_ids, model))
    system = [{"role": "system", "content": body.system}] if body.system else []
    messages = model.with_opening_messages([*system, {"role": "user", "content": prompt}])
    return await encode_ask(prompt_ask(body, messages), model, template, keep=keep)


def _plain(model: ServedModel, token_ids: Sequence[int]) -> ChatPrompt:
    """Return a prompt that no template has written. Its answer has no reasoning."""
    return ChatPrompt(
        token_ids=token_ids,
        reasoning=ReasoningStart.NONE,
        text="",
        format=replace(model.output.format, reasoning=None, answer_markers=()),
    )


async def _encode_next_turn(
    body: GenerateRequest, model: ServedModel, template: ChatTemplate | None, keep: Keep
) -> ChatPrompt:
    """Return what the template writes for a further turn after an answer, without another beginning or system prompt."""

    async def encode(
        messages: Sequence[Message], ending: ChatEnding = ChatEnding.BEGUN, keep: Keep = Keep.ALL
    ) -> ChatPrompt:
        return await encode_ask(replace(prompt_ask(body, messages), ending=ending), model, template, keep=keep)

    turn = {"role": "user", "content": body.prompt or ""}
    if body.system:
        return await encode([{"role": "system", "content": body.system}, turn], keep=keep)
    before = (await encode(_EARLIER_TURN, ChatEnding.CONTINUED)).token_ids
    whole = await encode([*_EARLIER_TURN, turn])
    # A template that does not write the turns one after the other gets the new turn as if it were the first.
    if whole.token_ids[: len(before)] != before:
        return await encode([turn], keep=keep)
    return replace(whole, token_ids=whole.token_ids[len(before) :])


def _joined(context: Sequence[int], turn: Sequence[int], model: ServedModel) -> list[int]:
    """Return the context and the turn. The token that ended the earlier answer may be in both, and is kept once."""
    ended = bool(context) and context[-1] in model.model.eos_token_ids and list(turn[:1]) == [context[-1]]
    return [*context, *(turn[1:] if ended else turn)]
