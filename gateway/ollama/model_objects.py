"""How Ollama describes a model that runs, in /api/ps. What it says of one on disk is in pagoda/models/ollama_objects.py."""

from datetime import UTC, datetime, timedelta

from gateway.upstream.inference import ModelInfo
from pagoda.models.catalogue import with_tag
from pagoda.models.model import Model
from pagoda.models.ollama_objects import JSONObject, identity

# Ollama shows a model that is never unloaded as a date that nobody will see.
FOREVER = "2318-01-01T00:00:00Z"


def running(model: Model | None, info: ModelInfo) -> JSONObject:
    """Without a model its files are gone: it was deleted, and stays in memory until nobody uses it."""
    name = with_tag(info.name)
    described = identity(model) if model else {"name": name, "model": name, "size": 0, "digest": info.digest}
    return described | {
        "expires_at": _expires_at(info.expires_in_s),
        "size_vram": 0 if info.device.startswith("cpu") else described["size"],
        "context_length": info.max_model_len,
    }


def _expires_at(expires_in_s: float | None) -> str:
    if expires_in_s is None:
        return FOREVER
    moment = datetime.now(UTC) + timedelta(seconds=expires_in_s)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
