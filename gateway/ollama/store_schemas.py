"""The request bodies of Ollama's endpoints for stored models: show, delete, copy, pull and create."""

from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from gateway.http.fields import MAX_MESSAGES, ModelName, described
from gateway.http.schema import Schema, with_example
from gateway.ollama.message_schemas import OpeningMessage
from gateway.ollama.schemas import Options

OpeningMessages = Annotated[list[OpeningMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)]


class _NamedModel(Schema):
    model: ModelName = ""
    name: ModelName = ""
    """The deprecated spelling of `model`."""

    @property
    def model_name(self) -> str:
        return self.model or self.name


class ShowRequest(_NamedModel):
    """A model to describe."""

    model_config = with_example({"model": "smollm2:135m"})

    neutral = MappingProxyType({"system": ("",), "template": ("",)})
    hints = frozenset({"options"})

    verbose: bool | None = None


class DeleteRequest(_NamedModel):
    """A model to delete."""

    model_config = with_example({"model": "my-model"})


class CopyRequest(Schema):
    """A model, and a further name for it."""

    model_config = with_example({"source": "smollm2:135m", "destination": "my-model"})

    source: ModelName = ""
    destination: ModelName = ""


class PullRequest(_NamedModel):
    """A model to download."""

    model_config = with_example({"model": "smollm2:135m"})

    # Credentials come from the server's environment (HF_TOKEN), not from requests.
    hints = frozenset({"password", "username"})

    insecure: bool | None = None
    stream: bool | None = None


MAX_FILES = 1024


class CreateRequest(_NamedModel):
    """A model to make, from another model or from files."""

    model_config = with_example({"model": "my-model", "from": "smollm2:135m", "system": "Answer in one sentence."})

    # What a Modelfile says only to Ollama (parser, renderer, requires, draft_files) is an unknown field: ignored, and named.
    neutral = MappingProxyType(
        {
            "adapters": ({},),
            "info": ({},),
            "modelfile": ("",),
            "path": ("",),
            "quantization": ("",),
            "quantize": ("",),
            "remote_host": ("",),
        }
    )

    from_: Annotated[ModelName | None, Field(alias="from")] = None
    """The name of a model in the store."""
    files: Annotated[dict[ModelName, str], Field(max_length=MAX_FILES)] | None = None
    """Digests of uploaded blobs by file name: one GGUF file, all parts of one, or the files of a safetensors checkpoint."""
    system: str | None = None
    template: str | None = None
    """A template in Jinja that replaces the one in the model's files. A Go template is used only if the files have none, and if
    Pagoda knows it."""
    license: (
        Annotated[str | Annotated[list[str], Field(fail_fast=True)], described("a string or a list of strings")] | None
    ) = None
    parameters: Options | None = None
    messages: OpeningMessages | None = None
    stream: bool | None = None

    @property
    def licenses(self) -> list[str]:
        return [self.license] if isinstance(self.license, str) else list(self.license or ())
