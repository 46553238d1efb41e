"""Fields of OpenAI's API, vLLM and llama.cpp that are not supported, and the values of them that are accepted."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Not supported: each is accepted only with a value that changes nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "dry_multiplier": (0, 0.0),
        "dynatemp_range": (0, 0.0),
        "ec_transfer_params": (),
        "kv_transfer_params": (),
        "length_penalty": (1.0, 1),
        "lora": ([],),
        "mirostat": (0,),
        "repetition_detection": (),
        "return_prompt_text": (False,),
        "return_weight_versions": (False,),
        "spaces_between_special_tokens": (True,),
        "tfs_z": (1, 1.0),
        "top_n_sigma": (-1, -1.0),
        "typical_p": (1, 1.0),
        "use_beam_search": (False,),
        "vllm_xargs": ({},),
        "watermarking": (False,),
        "xtc_probability": (0, 0.0),
    }
)
CHAT_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        **NEUTRAL,
        # A chat's prompt has the model's opening token once, whether the template writes it or not.
        "add_special_tokens": (False, True),
        "audio": (),
        "echo": (False,),
        "media_io_kwargs": ({},),
        "mm_processor_kwargs": ({},),
        "modalities": (["text"],),
        "web_search_options": (),
    }
)
COMPLETION_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {**NEUTRAL, "prompt_embeds": (), "thinking_token_budget": ()}
)
# Accepted with any value. They are about the client's bookkeeping or about scheduling.
HINTS = frozenset(
    {
        "cache_prompt",
        "guided_decoding_backend",
        "id_slot",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "session_id",
        "store",
        "stream_interval",
        "timings_per_token",
        "user",
        "verbosity",
    }
)
# Known text of the answer could make it faster, but never changes it.
CHAT_HINTS = HINTS | {"prediction"}
