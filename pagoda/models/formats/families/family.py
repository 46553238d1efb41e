"""The description of a family, and the rules that several families share.

A family is described by its differences from a plain llama.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.model import ModelConfig

ATTENTION_BIAS: Mapping[str, frozenset[str]] = {"attention_bias": frozenset("qkvo")}
LLAMA_BIASES: Mapping[str, frozenset[str]] = {**ATTENTION_BIAS, "mlp_bias": frozenset(("gate", "up", "down"))}

Fields = dict[str, Any]
ReadFields = Callable[[ModelConfig, Mapping[str, Any]], Fields]
"""A function that returns the fields of ModelConfig that are not the default, from config.json or from GGUF's metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models, as Hugging Face's config.json describes it."""

    architecture: str
    """Name in GGUF's spelling."""
    fields: ReadFields
    biases: frozenset[str] = frozenset()
    """Linear layers that always have a bias."""
    bias_settings: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The linear layers that have a bias if a key of config.json is true."""
    hidden_act: str = "silu"
    """The only supported activation."""
    legacy_hidden_act: str | None = None
    """Another name by which the class means the same activation."""
    defaults: Mapping[str, Any]
    """Values of transformers' class for keys that config.json leaves out. A key of UNUSUAL_NUMBERS is refused unless it is here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFFamily:
    """A family of models, as the metadata of a GGUF file describes it."""

    fields: ReadFields
    numbers: frozenset[str] = frozenset()
    """Keys, after the architecture's name, that this family computes with and others refuse (UNUSUAL_NUMBERS)."""


def plain(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    """Return no fields, for a family that differs from llama in its name and its tensors only."""
    return {}


def window_everywhere(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    """Return the window of all layers, for classes that ignore `layer_types`."""
    size = values.optional_count(content, "sliding_window")
    return values.window(size, config.max_position, (True,) * config.num_layers)


def window_of_types(
    config: ModelConfig, content: Mapping[str, Any], layers: tuple[bool, ...], max_position: int | None
) -> Fields:
    """Return the window of the layers that `layer_types` names, or of `layers`, the family's rule, if the file has none."""
    types = values.items(content, "layer_types", str) if content.get("layer_types") is not None else None
    if types is not None:
        if len(types) != config.num_layers or not set(types) <= {"sliding_attention", "full_attention"}:
            raise ModelFormatError(
                "layer_types in the model's config.json must name sliding_attention or full_attention for each layer"
            )
        layers = tuple(kind == "sliding_attention" for kind in types)
    return values.window(values.optional_count(content, "sliding_window"), max_position, layers)


def rotary_size(config: ModelConfig, content: Mapping[str, Any], *, share: float) -> int | None:
    """Return the number of rotated elements of a head, None for all; `share` is the class's default share of a head."""
    parameters = content.get("rope_scaling") or content.get("rope_parameters")
    source = parameters if isinstance(parameters, dict) and "partial_rotary_factor" in parameters else content
    share = values.number(source, "partial_rotary_factor", share)
    if share > 1 or (share < 1 and int(config.head_size * share) % 2):
        raise ModelFormatError(
            f"partial_rotary_factor must be at most 1 and rotate an even number of elements (got {share!r})"
        )
    return None if share == 1 else int(config.head_size * share)


def windowed(config: ModelConfig, metadata: Mapping[str, Any], is_windowed: Iterable[bool]) -> Fields:
    """Return the window of a GGUF file's layers."""
    return values.window(window_size(config, metadata), config.max_position, is_windowed)


def window_size(config: ModelConfig, metadata: Mapping[str, Any]) -> int | None:
    return values.optional_count(metadata, f"{config.architecture}.attention.sliding_window")


def all_but_every(period: int, num_layers: int) -> tuple[bool, ...]:
    """Return a flag for each layer, which is False for every layer whose number, from 1, `period` divides."""
    return tuple((layer + 1) % period != 0 for layer in range(num_layers))


def plain_gguf(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    """Return no fields, as `plain` does. Raises ModelFormatError if the file has caps, which such a family does not compute."""
    refuse_caps(config, metadata)
    return {}


def window_pattern(config: ModelConfig, metadata: Mapping[str, Any], period: int) -> tuple[bool, ...]:
    """Return for each layer whether it has a window. A GGUF file has a flag per layer or a period; `period` is its default.

    With a period of n, every n-th layer has no window.
    """
    key = f"{config.architecture}.attention.sliding_window_pattern"
    pattern = metadata.get(key, period)
    if not isinstance(pattern, list):
        return all_but_every(values.count(metadata, key, period), config.num_layers)
    if len(pattern) != config.num_layers:
        raise ModelFormatError(f"the sliding window pattern has {len(pattern)} entries for {config.num_layers} layers")
    return tuple(map(bool, pattern))


def refuse_caps(config: ModelConfig, metadata: Mapping[str, Any]) -> None:
    """Raise ModelFormatError if a GGUF file has a number of Gemma's that this family does not compute with."""
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        values.require(metadata, f"{config.architecture}.{key}", 0)
    values.require(metadata, f"{config.architecture}.rope.freq_base_swa", config.rope_theta, unused=0)
