"""The layers of Ollama's manifests: the weights, and the settings that are stored as text and JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pagoda.models.errors import ModelfileError, ModelFormatError
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama.manifest import Layer, OllamaManifest
from pagoda.models.parameters import SAMPLING_PARAMETERS, changes_nothing, checked_parameter, shortened

MAX_TEXT_BYTES = 4 << 20
"""Largest size of one layer with text or JSON."""
MAX_TEXTS_BYTES = 16 << 20
"""Largest size of all such layers of one model together."""
MAX_TEXT_LAYERS = 64
"""Largest number of such layers, each of which is a request to a registry."""

ReadLayer = Callable[[Layer], bytes]
"""Function that returns the bytes of a layer's blob."""

_TEMPLATE = ("template", "prompt")  # "prompt" is the name in old manifests
_TEXTS = (*_TEMPLATE, "system", "params", "messages", "license")
_MLX = ("tensor", "json")
_ROLES = ("system", "user", "assistant")
_UNUSED = {
    "projector": "the vision part of the model (projector) is not supported; only text is",
    "draft": "the draft model for speculative decoding is not used",
    "embed": "the layer of embeddings, which Ollama ignores too, is not used",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaConfig:
    """The facts of a model's config blob. A fact that is missing is empty."""

    model_format: str = ""
    model_family: str = ""
    model_type: str = ""
    """Number of parameters, such as "8.0B"."""
    file_type: str = ""
    """Quantization, such as "Q4_K_M"."""
    renderer: str = ""
    """Name of Ollama's built-in function that writes the prompt. The GGUF file's Jinja template is used instead."""
    parser: str = ""
    remote_host: str = ""
    """Server where the model runs, for a model without weights."""
    remote_model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaModel:
    """A model of a registry or a store, with its weights not yet read."""

    weights: Layer
    """The GGUF file."""
    config: OllamaConfig
    settings: ModelSettings
    """The model's settings. The template is as the model has it, which mostly is a Go template."""
    warnings: tuple[str, ...]
    """Sentences about parts of the model that are not used."""


def text_layers(manifest: OllamaManifest) -> list[Layer]:
    """Return the layers that `read_model` reads: the config and the settings, without the weights.

    Raises ModelFormatError if they are too large.
    """
    config = [manifest.config] if manifest.config is not None else []
    layers = [*config, *manifest.of_kind(*_TEXTS)]
    for layer in layers:
        if layer.size_bytes > MAX_TEXT_BYTES:
            raise ModelFormatError(
                f"the {_name_of(layer, manifest)} layer has {layer.size_bytes} bytes (at most {MAX_TEXT_BYTES} are allowed)"
            )
    if len(layers) > MAX_TEXT_LAYERS:
        raise ModelFormatError(f"the model has {len(layers)} layers of text (at most {MAX_TEXT_LAYERS} are allowed)")
    if (total := sum(layer.size_bytes for layer in layers)) > MAX_TEXTS_BYTES:
        raise ModelFormatError(f"the layers of text have {total} bytes (at most {MAX_TEXTS_BYTES} are allowed)")
    return layers


def read_model(manifest: OllamaManifest, read: ReadLayer) -> OllamaModel:
    """Return the model, with its small layers read by `read`. Raises ModelFormatError if Pagoda cannot use the model."""
    text_layers(manifest)
    refuse_unsupported(manifest)
    config = OllamaConfig() if manifest.config is None else parse_config(read(manifest.config))
    weights = weights_of(manifest, config)
    warnings = [_UNUSED.get(kind, f"the layer {kind[:100]!r} is unknown; it is not used") for kind in _unused(manifest)]
    texts: dict[str, str] = {}
    licenses: list[str] = []
    parameters: dict[str, Any] = {}
    messages: list[dict[str, str]] = []
    for layer in manifest.of_kind(*_TEXTS):
        data = read(layer)
        match layer.kind:
            case "license":
                licenses.append(_text(data))
            case "params":
                found, ignored = parse_parameters(data)
                parameters |= found
                warnings += ignored
            case "messages":
                messages = _messages(data)
            case kind:
                texts["template" if kind in _TEMPLATE else kind] = _text(data)
    settings = ModelSettings(license=licenses, parameters=parameters, messages=messages, **texts)
    return OllamaModel(weights=weights, config=config, settings=settings, warnings=tuple(warnings))


def refuse_unsupported(manifest: OllamaManifest) -> None:
    """Raise ModelFormatError for layers without which the model would answer differently."""
    if manifest.of_kind("adapter"):
        raise ModelFormatError("the model has a LoRA adapter, which is not supported; use one with merged weights")
    if manifest.of_kind(*_MLX) and not manifest.of_kind("model"):
        raise ModelFormatError(
            "the model is stored as tensors for Ollama's MLX runner, which is not supported; use a tag with a GGUF file"
        )


def weights_of(manifest: OllamaManifest, config: OllamaConfig) -> Layer:
    """Return the layer with the GGUF file. Raises ModelFormatError unless there is exactly one."""
    weights = manifest.of_kind("model")
    if len(weights) == 1:
        return weights[0]
    if weights:
        raise ModelFormatError(f"the model is split into {len(weights)} layers, which is not supported (expected 1)")
    if config.remote_host or config.remote_model:
        host = config.remote_host[:100] or "another server"
        raise ModelFormatError(
            f"the model runs at {host}, so there are no weights to download; use a tag without 'cloud'"
        )
    raise ModelFormatError("the model has no weights: its manifest has no layer with a GGUF file")


def parse_config(data: bytes) -> OllamaConfig:
    """Parse a config blob. Facts of a wrong type are left out. Raises ModelFormatError if it is not a JSON object."""
    content = _json(data, "config")
    if not isinstance(content, Mapping):
        raise ModelFormatError("the config layer is damaged: it is not a JSON object")
    facts = {name: content.get(name) for name in OllamaConfig.__dataclass_fields__}
    return OllamaConfig(**{name: value for name, value in facts.items() if isinstance(value, str)})


def parse_parameters(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """Return the usable parameters of a params layer, and a sentence for each that is not supported.

    Parameters of Ollama's runner that do not change answers are left out silently. Raises ModelFormatError for a damaged layer.
    """
    content = _json(data, "params")
    if content is None:
        return {}, []
    if not isinstance(content, Mapping):
        raise ModelFormatError("the params layer is damaged: it is not a JSON object")
    usable: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in content.items():
        if (problem := _add_parameter(usable, name, value)) is not None:
            ignored.append(f"a parameter of the model is not used: {problem[:200]}")
    return usable, ignored


def _add_parameter(usable: dict[str, Any], name: str, value: object) -> str | None:
    """Add a parameter to the usable ones. Return why it cannot be used, or None."""
    if value is None:
        return None
    try:
        if name in SAMPLING_PARAMETERS:
            usable[name] = checked_parameter(name, _without_surrogates(value))
        elif not changes_nothing(name, str(value) if isinstance(value, bool | int | float | str) else ""):
            return f"{shortened(name)} is unknown"
    except ModelfileError as error:
        return str(error).removesuffix("; remove it")
    except ValueError as error:
        return str(error)
    return None


def _messages(data: bytes) -> list[dict[str, str]]:
    content = _json(data, "messages")
    messages: list[dict[str, str]] = []
    for each in () if content is None else content if isinstance(content, list) else (content,):
        match each:
            case {"role": str(role), "content": str(text)} if role in _ROLES:
                messages.append({"role": role, "content": _without_surrogates(text)})
            case _:
                raise ModelFormatError(
                    f"the messages layer is damaged: each message must have a content and one of the roles {', '.join(_ROLES)}"
                )
    return messages


def _unused(manifest: OllamaManifest) -> Sequence[str]:
    used = ("model", *_TEXTS, *_MLX)
    return list(dict.fromkeys(layer.kind for layer in manifest.layers if layer.kind not in used))


def _name_of(layer: Layer, manifest: OllamaManifest) -> str:
    return "config" if layer is manifest.config else layer.kind


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ModelFormatError(f"the {what} layer is damaged: it is not JSON") from None


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _without_surrogates(value: Any) -> Any:
    """Return the value with lone surrogates replaced, which JSON may contain but no file and no prompt can."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return [_without_surrogates(each) for each in value] if isinstance(value, list) else value
