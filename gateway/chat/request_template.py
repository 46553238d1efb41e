"""Chat templates in requests: the permission to send them, and their check. A template is code that runs on this server."""

from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from gateway.models.served_model import ServedModel
from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.template_renderer import ChatTemplateError
from pagoda.api_keys.key_file import Scope
from pagoda.api_keys.keyring import Caller
from pagoda.models.formats.chat_template_text import is_go_template
from pagoda.models.ollama.go_templates import jinja_of


def check_may_send_template(caller: Caller, *, trusts_all: bool, field: str) -> None:
    """Raise FORBIDDEN, which names the field, if the caller's key lacks the scope `admin` and the gateway does not trust all."""
    if trusts_all or Scope.ADMIN in caller.scopes:
        return
    raise GatewayError(
        ErrorKind.FORBIDDEN,
        f"{field}: the API key '{caller.key_name}' lacks the required scope '{Scope.ADMIN}', and the gateway runs without "
        f"--trust-request-chat-template; leave it out to use the model's own.",
        param=field,
    )


def as_jinja(source: str, field: str) -> str:
    """Return a template in Jinja: as it is, or the equivalent of a known Go template. Raises an error for an unknown one."""
    jinja = jinja_of(source) if is_go_template(source) else source
    if jinja is None:
        raise InvalidRequestError(
            f"{field}: this Go template is not known; write it in Jinja, like Hugging Face's chat templates, "
            "or leave it out to use the model's own",
            param=field,
        )
    return jinja


async def compile_template(source: str, model: ServedModel, field: str) -> ChatTemplate:
    """Return the template of a request for this model. Raises InvalidRequestError with the reason if it is not valid."""
    try:
        return await model.compile_template(as_jinja(source, field))
    except ChatTemplateError as error:
        raise InvalidRequestError(f"{field}: {error}", param=field) from None
