"""How Ollama describes models, in /api/tags, /api/ps and /api/show."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.chat_template_source import template_source
from gateway.inference import ModelInfo
from gateway.served_models import with_tag
from pagoda.models.gguf_file import GGUFFile
from pagoda.models.model import Model, ModelFormat
from pagoda.models.model_settings import ModelSettings, read_settings
from pagoda.models.safetensors_file import read_tensors, weight_files

JSONObject = dict[str, Any]
# What fits into a line is shown; vocabularies and merges only to who asks for everything.
MAX_SHOWN_ITEMS = 5


def listed(model: Model) -> JSONObject:
    return _identity(model) | {"modified_at": modified_at(model), "capabilities": ["completion"]}


def running(model: Model, info: ModelInfo, expires_at: str) -> JSONObject:
    return _identity(model) | {
        "expires_at": expires_at,
        "size_vram": 0 if info.device.startswith("cpu") else model.size_bytes,
        "context_length": info.max_model_len,
    }


def shown(model: Model, *, verbose: bool) -> JSONObject:
    """Reads the model's files."""
    settings = read_settings(model)
    template = settings.template or template_source(model) or ""
    metadata = _metadata(model)
    described: JSONObject = {
        "license": "\n".join(settings.license),
        "modelfile": _modelfile(model, settings),
        "parameters": "\n".join(_parameter_lines(settings.parameters)),
        "template": template,
        "system": settings.system,
        "details": _details(model),
        "model_info": metadata if verbose else {name: _in_a_line(value) for name, value in metadata.items()},
        "capabilities": ["completion"],
        "modified_at": modified_at(model),
    }
    if settings.messages:
        described["messages"] = list(settings.messages)
    return described | {"tensors": _tensors(model)} if verbose else described


def modified_at(model: Model) -> str:
    # The time of what says what the model is: its files may be older, and shared with others.
    manifest = model.path.parent / "manifest.json"
    path = manifest if manifest.exists() else model.path
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return modified.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _identity(model: Model) -> JSONObject:
    return {
        "name": with_tag(model.name),
        "model": with_tag(model.name),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
    }


def _details(model: Model) -> JSONObject:
    return {
        "parent_model": read_settings(model).parent,
        "format": model.format.value,
        "family": model.config.architecture,
        "families": [model.config.architecture],
        "parameter_size": _parameter_size(model.num_parameters),
        "quantization_level": model.quantization,
        "context_length": model.config.max_position,
        "embedding_length": model.config.hidden_size,
    }


def _metadata(model: Model) -> JSONObject:
    count = {"general.parameter_count": model.num_parameters}
    if model.format is ModelFormat.GGUF:
        with GGUFFile(model.path) as file:
            return dict(file.metadata) | count
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
    tensors = {name: each for path in weight_files(model.path) for name, each in read_tensors(path).items()}
    return [_tensor(name, each.dtype, each.shape) for name, each in tensors.items()]


def _tensor(name: str, kind: str, shape: tuple[int, ...]) -> JSONObject:
    return {"name": name, "type": kind, "shape": list(shape)}


def _modelfile(model: Model, settings: ModelSettings) -> str:
    lines = ["# Served by Pagoda", f"FROM {settings.parent or with_tag(model.name)}"]
    for word, text in (("TEMPLATE", settings.template), ("SYSTEM", settings.system)):
        lines += [f'{word} """{text}"""'] if text else []
    lines += [f"PARAMETER {line}" for line in _parameter_lines(settings.parameters, width=0)]
    lines += [f"MESSAGE {message['role']} {message['content']}" for message in settings.messages]
    lines += [f'LICENSE """{text}"""' for text in settings.license]
    return "\n".join(lines) + "\n"


def _parameter_lines(parameters: Mapping[str, Any], width: int = 30) -> list[str]:
    """One for each value: `stop` may have several."""
    values = [
        (name, each) for name, value in parameters.items() for each in (value if isinstance(value, list) else [value])
    ]
    return [f"{name:<{width}} {_quoted(value)}" for name, value in values]


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _parameter_size(num_parameters: int) -> str:
    for divisor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if num_parameters >= divisor:
            return f"{num_parameters / divisor:.4g}{unit}"
    return str(num_parameters)
