"""Which scope of an API key each path needs. What is not listed needs the one for inference, unknown paths too.

Knows nothing about keys.
"""

from pagoda.api_keys.key_file import Scope

# Probes, and what Ollama's clients look at to see whether anyone is there.
OPEN_PATHS = frozenset({"/", "/health", "/ping", "/ready"})
ADMIN_PATHS = frozenset(
    {
        "/api/copy",
        "/api/create",
        "/api/delete",
        "/api/pull",
        "/api/push",
        "/metrics",
        "/queue",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
    }
)
_ADMIN_PREFIXES = ("/api/blobs/",)


def needed_scope(path: str) -> Scope | None:
    """None where no key is needed."""
    if path in OPEN_PATHS:
        return None
    return Scope.ADMIN if path in ADMIN_PATHS or path.startswith(_ADMIN_PREFIXES) else Scope.INFERENCE
