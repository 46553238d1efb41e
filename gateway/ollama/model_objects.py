"""How Ollama describes models, in /api/tags, /api/ps and /api/show."""

from datetime import UTC, datetime
from typing import Any

from gateway.inference import ModelInfo
from gateway.served_models import ServedModel

JSONObject = dict[str, Any]
# Models are never unloaded; Ollama shows such a one as a date that nobody will see.
FOREVER = "2318-01-01T00:00:00Z"


def listed(served: ServedModel) -> JSONObject:
    return _identity(served) | {"modified_at": _modified_at(served)}


def running(served: ServedModel, info: ModelInfo) -> JSONObject:
    return _identity(served) | {
        "expires_at": FOREVER,
        "size_vram": 0 if info.device.startswith("cpu") else served.model.size_bytes,
        "context_length": info.max_model_len,
    }


def shown(served: ServedModel) -> JSONObject:
    model, config = served.model, served.model.config
    family = config.architecture
    return {
        "license": "",
        "modelfile": f"# Served by Pagoda\nFROM {served.tagged_name}\n",
        "parameters": "",
        "template": "" if served.chat_template is None else served.chat_template.source,
        "system": "",
        "details": _details(served),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": model.num_parameters,
            f"{family}.attention.head_count": config.num_heads,
            f"{family}.attention.head_count_kv": config.num_kv_heads,
            f"{family}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            f"{family}.block_count": config.num_layers,
            f"{family}.context_length": config.max_position,
            f"{family}.embedding_length": config.hidden_size,
            f"{family}.feed_forward_length": config.intermediate_size,
            f"{family}.rope.freq_base": config.rope_theta,
            f"{family}.vocab_size": config.vocab_size,
        },
        "capabilities": ["completion"],
        "modified_at": _modified_at(served),
    }


def _identity(served: ServedModel) -> JSONObject:
    return {
        "name": served.tagged_name,
        "model": served.tagged_name,
        "size": served.model.size_bytes,
        "digest": served.model.digest,
        "details": _details(served),
    }


def _details(served: ServedModel) -> JSONObject:
    model = served.model
    return {
        "parent_model": "",
        "format": model.format.value,
        "family": model.config.architecture,
        "families": [model.config.architecture],
        "parameter_size": _parameter_size(model.num_parameters),
        "quantization_level": model.quantization,
    }


def _parameter_size(num_parameters: int) -> str:
    for divisor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if num_parameters >= divisor:
            return f"{num_parameters / divisor:.4g}{unit}"
    return str(num_parameters)


def _modified_at(served: ServedModel) -> str:
    modified = datetime.fromtimestamp(served.model.path.stat().st_mtime, UTC)
    return modified.isoformat(timespec="microseconds").replace("+00:00", "Z")
