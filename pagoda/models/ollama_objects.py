"""A model on disk in the form of Ollama's API: an entry of /api/tags, and the answer of /api/show.

The `pagoda` command prints the same objects, whether it read them from disk or from a server.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pagoda.models.capabilities import read_capabilities
from pagoda.models.formats.chat_template_text import GGUF_TEMPLATE_KEY, chat_template_text
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.safetensors_file import read_all_tensors
from pagoda.models.model import Model, ModelFormat
from pagoda.models.model_settings import ModelSettings, model_digest
from pagoda.models.modelfile import render_modelfile
from pagoda.models.names import with_tag
from pagoda.models.output_formats.choice import FormatChoice
from pagoda.models.parameters import parameter_lines
from pagoda.models.sampling_defaults import OLLAMA, ModelDefaults, SamplingPolicy, as_json
from pagoda.models.stored_settings import read_settings

JSONObject = dict[str, Any]
# Longer lists, such as the vocabulary, are left out unless the request is verbose.
MAX_SHOWN_ITEMS = 5


def listed(model: Model) -> JSONObject:
    return identity(model) | {"modified_at": _modified_at(model), "capabilities": ["completion"]}


def listed_with_capabilities(model: Model) -> JSONObject:
    """Return the entry with all capabilities, which takes longer at the first time."""
    return listed(model) | {"capabilities": list(read_capabilities(model, read_settings(model)).names)}


def identity(model: Model) -> JSONObject:
    """Return the fields that all of Ollama's lists of models have. Clients treat models with the same digest as one."""
    settings = read_settings(model)
    return {
        "name": with_tag(model.name),
        "model": with_tag(model.name),
        "size": model.size_bytes,
        "digest": model_digest(model, settings),
        "details": _details(model, settings),
    }


def shown(
    model: Model,
    policy: SamplingPolicy,
    *,
    verbose: bool,
    template: str | None = None,
    output: FormatChoice | None = None,
) -> JSONObject:
    """Return the answer of /api/show, from the model's files.

    `template` is the one that replaces the model's, if one does. `output` is the output format that a gateway has proven.

    `sampling_defaults` and `output_format` are extensions of Pagoda: the values for a request that leaves all parameters out, and
    the format in which the model writes reasoning and tool calls.
    """
    settings = read_settings(model)
    if template is not None:
        settings = replace(settings, template=template)
    defaults = policy.defaults_of(model, settings)
    metadata = _metadata(model)
    described: JSONObject = {
        "license": "\n".join(settings.license) or str(metadata.get("general.license", "")),
        "modelfile": render_modelfile(settings.parent or with_tag(model.name), settings),
        "parameters": "\n".join(parameter_lines(_parameters(settings.parameters, defaults))),
        "sampling_defaults": as_json(defaults.choose({}, OLLAMA)),
        "template": settings.template or chat_template_text(model) or "",
        "system": settings.system,
        "details": _details(model, settings),
        "model_info": metadata if verbose else {name: _in_a_line(value) for name, value in metadata.items()},
        **read_capabilities(model, settings, output).as_json(),
        "modified_at": _modified_at(model),
    }
    if settings.messages:
        described["messages"] = list(settings.messages)
    return described | {"tensors": _tensors(model)} if verbose else described


def parameter_size(num_parameters: int, *, digits: int = 4) -> str:
    """Return a number of parameters in the form `134.5M` or `1.1B`."""
    for divisor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if num_parameters >= divisor:
            return f"{num_parameters / divisor:.{digits}g}{unit}"
    return str(num_parameters)


def _parameters(modelfile: Mapping[str, Any], defaults: ModelDefaults) -> JSONObject:
    """Return the Modelfile's parameters as written, and the recommended ones that it does not name."""
    return {**modelfile, **{name: value for name, value in defaults.named_by_model.items() if name not in modelfile}}


def _modified_at(model: Model) -> str:
    # The manifest's time, because the model's files may be older and shared with other models.
    path = model.manifest or model.path
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return modified.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _details(model: Model, settings: ModelSettings) -> JSONObject:
    return {
        "parent_model": settings.parent,
        "format": model.format.value,
        "family": model.config.architecture,
        "families": [model.config.architecture],
        "parameter_size": parameter_size(model.num_parameters),
        "quantization_level": model.quantization,
        "context_length": model.config.max_position,
        "embedding_length": model.config.hidden_size,
    }


def _metadata(model: Model) -> JSONObject:
    """Return the metadata of a GGUF file without the template, which has its own field, or a checkpoint's in the same keys."""
    count = {"general.parameter_count": model.num_parameters}
    if model.format is ModelFormat.GGUF:
        with GGUFFile(model.path) as file:
            return {name: value for name, value in file.metadata.items() if name != GGUF_TEMPLATE_KEY} | count
    config = model.config
    family = config.architecture
    return count | {
        "general.architecture": family,
        f"{family}.attention.head_count": config.num_heads,
        f"{family}.attention.head_count_kv": config.num_kv_heads,
        f"{family}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{family}.block_count": config.num_layers,
        f"{family}.context_length": config.max_position,
        f"{family}.embedding_length": config.hidden_size,
        f"{family}.feed_forward_length": config.intermediate_size,
        f"{family}.rope.freq_base": config.rope_theta,
        f"{family}.vocab_size": config.vocab_size,
    }


def _in_a_line(value: Any) -> Any:
    return [] if isinstance(value, list) and len(value) > MAX_SHOWN_ITEMS else value


def _tensors(model: Model) -> list[JSONObject]:
    if model.format is ModelFormat.GGUF:
        with GGUFFile(model.path) as file:
            return [_tensor(each.name, each.ggml_type.name, each.shape) for each in file.tensors.values()]
    return [_tensor(name, each.dtype, each.shape) for name, each in read_all_tensors(model.path).items()]


def _tensor(name: str, kind: str, shape: Iterable[int]) -> JSONObject:
    return {"name": name, "type": kind, "shape": list(shape)}
