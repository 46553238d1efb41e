"""What a model's own files recommend for sampling: generation_config.json of a checkpoint, `general.sampling.*` of a GGUF file.

It is read as it stands, under the names of Ollama's `options`. Which values make sense is decided in
pagoda/models/sampling_defaults.py.
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
# The later of two spellings wins, as in llama.cpp's converter.
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
# What changes answers elsewhere and is not done here, with the values under which it changes nothing.
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
# A switch of llama.cpp's and what it governs, which means nothing while the switch is off.
_GGUF_SWITCHES = MappingProxyType({"mirostat": ("mirostat_tau", "mirostat_eta"), "xtc_probability": ("xtc_threshold",)})


def read_generation_config(directory: Path) -> Recommendation:
    """A value that the file does not name, or names as null, is left open. `do_sample` is not looked at, as in vLLM."""
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
    """A float of 32 bits in as many digits as it has: 0.6, not 0.6000000238418579."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names[name]: values[name] for name in names if name in values}
