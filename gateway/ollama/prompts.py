"""From the body of /api/generate to the prompt's tokens: raw, through a template, or behind an earlier turn's context."""

import asyncio
from collections.abc import Sequence
from functools import partial

from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from gateway.models.served_model import ChatEnding, ServedModel, no_thinking
from gateway.ollama.schemas import GenerateRequest
from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.template_renderer import ChatTemplateError, rendering_threads, shared_renderer
from pagoda.api_keys.key_file import Scope
from pagoda.api_keys.keyring import Caller
from pagoda.models.formats.chat_template_text import is_go_template
from pagoda.text.prompt_bound import Keep

# Any turn will do: only what a template writes between two turns is taken from it.
_EARLIER_TURN = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


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
        check = partial(shared_renderer().check, source, is_foreign=True)
        await asyncio.get_running_loop().run_in_executor(rendering_threads, check)
    except ChatTemplateError as error:
        raise InvalidRequestError(f"template: {error}", param="template") from None


def refuse_template_of(caller: Caller) -> None:
    """Raise FORBIDDEN for a key that may not bring code of its own, which a template is."""
    if Scope.ADMIN not in caller.scopes:
        raise GatewayError(
            ErrorKind.FORBIDDEN,
            f"template: this needs the scope '{Scope.ADMIN}', which the API key '{caller.key_name}' has not, or a gateway "
            f"with --trust-request-chat-template; leave it out to use the model's own.",
            param="template",
        )


async def encode_prompt(body: GenerateRequest, model: ServedModel, *, keep: Keep = Keep.ALL) -> list[int]:
    """Return the prompt's tokens; `keep` says what becomes of one that is far too long."""
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
    messages = model.conversation([*system, {"role": "user", "content": prompt}])
    return await model.encode_chat(messages, template=template, keep=keep, thinks=body.think)


async def _template(body: GenerateRequest, model: ServedModel) -> ChatTemplate | None:
    if not body.template:
        return None
    refuse_go_template(body.template)
    try:
        return await model.template(body.template)
    except ChatTemplateError as error:
        raise InvalidRequestError(f"template: {error}", param="template") from None


async def _encode_next_turn(
    body: GenerateRequest, model: ServedModel, template: ChatTemplate | None, keep: Keep
) -> list[int]:
    """What a template writes behind the end of an answer: no beginning of a sequence and no system prompt of its own again."""
    turn = {"role": "user", "content": body.prompt or ""}
    if body.system:
        system = {"role": "system", "content": body.system}
        return await model.encode_chat([system, turn], template=template, keep=keep, thinks=body.think)
    before = await model.encode_chat(_EARLIER_TURN, ChatEnding.CONTINUED, template, thinks=body.think)
    whole = await model.encode_chat([*_EARLIER_TURN, turn], template=template, thinks=body.think)
    # Where a template does not show the turns one after the other, the new one stands there as if it were the first.
    if whole[: len(before)] != before:
        return await model.encode_chat([turn], template=template, keep=keep, thinks=body.think)
    return whole[len(before) :]


def _joined(context: Sequence[int], turn: Sequence[int], model: ServedModel) -> list[int]:
    """The token that ended the earlier answer is in its context, and the template would write it once more."""
    ended = bool(context) and context[-1] in model.model.eos_token_ids and list(turn[:1]) == [context[-1]]
    return [*context, *(turn[1:] if ended else turn)]
