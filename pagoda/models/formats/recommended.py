"""Sampling values that a model's own files recommend: generation_config.json, or `general.sampling.*` of a GGUF file.

Values are read without validation, with the names of Ollama's `options`. pagoda/models/sampling_defaults.py validates them.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.model import NOTHING_RECOMMENDED, Recommendation

GENERATION_CONFIG = "generation_config.json"
GGUF_PREFIX = "general.sampling."

_NAME_IN_GENERATION_CONFIG = MappingProxyType(
    {
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "repeat_penalty",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "max_new_tokens": "num_predict",
    }
)
# If both spellings of a parameter occur, the later one in this table wins, as in llama.cpp's converter.
_NAME_IN_GGUF = MappingProxyType(
    {
        "temperature": "temperature",
        "temp": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "repeat_penalty",
        "penalty_repeat": "repeat_penalty",
        "penalty_last_n": "repeat_last_n",
        "presence_penalty": "presence_penalty",
        "penalty_present": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "penalty_freq": "frequency_penalty",
    }
)
# Settings that other programs apply and Pagoda does not support, with the values that have no effect.
_UNSUPPORTED_IN_GENERATION_CONFIG: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "bad_words_ids": ([],),
        "begin_suppress_tokens": ([],),
        "encoder_repetition_penalty": (1.0,),
        "epsilon_cutoff": (0.0,),
        "eta_cutoff": (0.0,),
        "exponential_decay_length_penalty": (),
        "guidance_scale": (1.0,),
        "min_length": (0,),
        "min_new_tokens": (0,),
        "no_repeat_ngram_size": (0,),
        "num_beams": (1,),
        "penalty_alpha": (0.0,),
        "sequence_bias": ({}, []),
        "suppress_tokens": ([],),
        "top_h": (),
        "typical_p": (1.0,),
    }
)
# Switches of llama.cpp, with the settings that have no effect while the switch is off.
_GGUF_SWITCHES = MappingProxyType({"mirostat": ("mirostat_tau", "mirostat_eta"), "xtc_probability": ("xtc_threshold",)})


def read_generation_config(directory: Path) -> Recommendation:
    """Return the recommendations of generation_config.json. A null counts as absent. `do_sample` is ignored, as in vLLM."""
    path = directory / GENERATION_CONFIG
    if not path.exists():
        return NOTHING_RECOMMENDED
    named = {name: value for name, value in read_json(path).items() if value is not None}
    return Recommendation(
        parameters=_renamed(named, _NAME_IN_GENERATION_CONFIG),
        unsupported={
            name: named[name]
            for name, neutral in _UNSUPPORTED_IN_GENERATION_CONFIG.items()
            if name in named and named[name] not in neutral
        },
    )


def read_gguf_sampling(metadata: Mapping[str, Any]) -> Recommendation:
    named = {
        name.removeprefix(GGUF_PREFIX): _as_written(value)
        for name, value in metadata.items()
        if name.startswith(GGUF_PREFIX)
    }
    unsupported = {name: value for name, value in named.items() if name not in _NAME_IN_GGUF}
    for switch, governed in _GGUF_SWITCHES.items():
        if not named.get(switch):
            unsupported = {name: value for name, value in unsupported.items() if name not in (switch, *governed)}
    return Recommendation(
        parameters=_renamed(named, _NAME_IN_GGUF),
        unsupported={GGUF_PREFIX + name: value for name, value in unsupported.items()},
    )


def _as_written(value: Any) -> Any:
    """Return a 32-bit float with the digits that it was written with: 0.6, not 0.6000000238418579."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names[name]: values[name] for name in names if name in values}
