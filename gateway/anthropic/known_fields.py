"""Fields of Anthropic's API and vLLM's additions that are not supported, and the values of them that are accepted."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Fields of chat completions, with the field of this API.
INSTEAD: Mapping[str, str] = MappingProxyType(
    {"reasoning_effort": "output_config.effort", "response_format": "output_config.format", "stop": "stop_sequences"}
)
# Not supported: each is accepted only with a value that changes nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "compaction": (),
        "kv_transfer_params": (),
        "mcp_servers": ([],),
        "thread": (),
        "vllm_xargs": ({},),
        **dict.fromkeys(INSTEAD, ()),
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
