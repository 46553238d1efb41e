"""Fields of Anthropic's API and vLLM's additions that are not supported, and the values of them that are accepted."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Not supported: each is accepted only with a value that changes nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "compaction": (),
        "kv_transfer_params": (),
        "mcp_servers": ([],),
        "thread": (),
        "vllm_xargs": ({},),
    }
)
# Accepted with any value. They are about caching, billing, regions and the client's bookkeeping.
HINTS = frozenset(
    {
        "billing_policy",
        "cache_control",
        "container",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
