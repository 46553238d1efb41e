"""What `list` and `show` say about a model of this machine's store, in the shape of Ollama's API objects.

The shape is the server's too, so that what prints them need not know where they come from. Knows nothing about printing.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pagoda.cli import human
from pagoda.cli.modelfile import render_modelfile
from pagoda.models.gguf_file import GGUFFile
from pagoda.models.model import Model, ModelFormat
from pagoda.models.model_settings import MANIFEST, ModelSettings, read_settings
from pagoda.models.safetensors_file import read_json, read_tensors, weight_files

JSONObject = dict[str, Any]
_PARAMETER_WIDTH = 30
# A metadata array longer than this, such as the vocabulary, is shown as its length.
_LONGEST_ARRAY = 5


def listed(model: Model) -> JSONObject:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": _modified_at(model.path).isoformat(),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model, read_settings(model)),
    }


def shown(model: Model) -> JSONObject:
    settings = read_settings(model)
    metadata = _metadata(model)
    license_of_file = metadata.get("general.license")
    return {
        "license": "\n".join(settings.license) or (license_of_file if isinstance(license_of_file, str) else ""),
        "modelfile": render_modelfile(model.name, settings),
        "parameters": parameter_lines(settings),
        "template": settings.template or _template(model, metadata),
        "system": settings.system,
        "messages": list(settings.messages),
        "details": _details(model, settings),
        "model_info": _model_info(model, metadata),
        "tensors": _tensors(model),
        "capabilities": ["completion"],
        "modified_at": _modified_at(model.path).isoformat(),
    }


def parameter_lines(settings: ModelSettings) -> str:
    """One `name value` per line, as /api/show has them."""
    values = [
        (name, each) for name, value in settings.parameters.items() for each in (value if _is_list(value) else [value])
    ]
    return "\n".join(f"{name:<{_PARAMETER_WIDTH}} {spelled(value)}" for name, value in values)


def _details(model: Model, settings: ModelSettings) -> JSONObject:
    return {
        "parent_model": settings.parent,
        "format": model.format.value,
        "family": model.config.architecture,
        "families": [model.config.architecture],
        "parameter_size": human.number(model.num_parameters),
        "quantization_level": model.quantization,
    }


def _modified_at(path: Path) -> datetime:
    """When the model was made, which its manifest says: its weights may be another's, and older."""
    manifest = path.parent / MANIFEST
    return datetime.fromtimestamp((manifest if manifest.exists() else path).stat().st_mtime, UTC)


def _metadata(model: Model) -> JSONObject:
    if model.format is not ModelFormat.GGUF:
        return {}
    with GGUFFile(model.path) as file:
        return dict(file.metadata)


def _model_info(model: Model, metadata: JSONObject) -> JSONObject:
    family, config = model.config.architecture, model.config
    info = {key: _without_long_arrays(value) for key, value in metadata.items() if key != "tokenizer.chat_template"}
    return info | {
        "general.architecture": family,
        "general.parameter_count": model.num_parameters,
        f"{family}.context_length": config.max_position,
        f"{family}.embedding_length": config.hidden_size,
        f"{family}.block_count": config.num_layers,
        f"{family}.vocab_size": config.vocab_size,
    }


def _without_long_arrays(value: Any) -> Any:
    return f"[{len(value)} values]" if isinstance(value, list) and len(value) > _LONGEST_ARRAY else value


def _tensors(model: Model) -> list[JSONObject]:
    if model.format is ModelFormat.GGUF:
        with GGUFFile(model.path) as file:
            return [
                {"name": each.name, "type": each.ggml_type.name, "shape": list(each.shape)}
                for each in file.tensors.values()
            ]
    tensors = {name: each for file in weight_files(model.path) for name, each in read_tensors(file).items()}
    return [{"name": name, "type": each.dtype, "shape": list(each.shape)} for name, each in tensors.items()]


def _template(model: Model, metadata: JSONObject) -> str:
    if model.format is ModelFormat.GGUF:
        return str(metadata.get("tokenizer.chat_template", ""))
    jinja, config = model.path / "chat_template.jinja", model.path / "tokenizer_config.json"
    if jinja.exists():
        return jinja.read_text(encoding="utf-8")
    template = read_json(config).get("chat_template") if config.exists() else None
    if isinstance(template, list):  # several, by name
        template = next((each.get("template") for each in template if each.get("name") == "default"), None)
    return template if isinstance(template, str) else ""


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def spelled(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f'"{value}"' if isinstance(value, str) else str(value)
