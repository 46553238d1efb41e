"""How Ollama describes a model that runs, in /api/ps. What it says of one on disk is in pagoda/models/ollama_objects.py."""

from gateway.inference import ModelInfo
from pagoda.models.model import Model
from pagoda.models.ollama_objects import JSONObject, identity


def running(model: Model, info: ModelInfo, expires_at: str) -> JSONObject:
    return identity(model) | {
        "expires_at": expires_at,
        "size_vram": 0 if info.device.startswith("cpu") else model.size_bytes,
        "context_length": info.max_model_len,
    }
