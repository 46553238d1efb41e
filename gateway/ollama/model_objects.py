"""How Ollama describes a model that runs, in /api/ps. What it says of one on disk is in pagoda/models/ollama_objects.py."""

from datetime import UTC, datetime, timedelta

from gateway.inference import ModelInfo
from pagoda.models.model import Model
from pagoda.models.ollama_objects import JSONObject, identity

# Ollama shows a model that is never unloaded as a date that nobody will see.
FOREVER = "2318-01-01T00:00:00Z"


def running(model: Model, info: ModelInfo) -> JSONObject:
    return identity(model) | {
        "expires_at": _expires_at(info.expires_in_s),
        "size_vram": 0 if info.device.startswith("cpu") else model.size_bytes,
        "context_length": info.max_model_len,
    }


def _expires_at(expires_in_s: float | None) -> str:
    if expires_in_s is None:
        return FOREVER
    moment = datetime.now(UTC) + timedelta(seconds=expires_in_s)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
