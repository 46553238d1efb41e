"""All families: how config.json and GGUF's metadata describe them, and the tensors of their layers."""

from collections.abc import Mapping

from pagoda.models.formats.families import gemma, glm, llama, llama_variants, mixtures, olmo, phi, qwen
from pagoda.models.formats.families.family import Family, GGUFFamily
from pagoda.models.formats.families.layer_tensors import LayerTensors

GROUPS = (llama, llama_variants, qwen, gemma, phi, olmo, glm, mixtures)

HF_FAMILIES: Mapping[str, Family] = {name: family for group in GROUPS for name, family in group.HF_FAMILIES.items()}
"""Families by the name of transformers' class."""

GGUF_FAMILIES: Mapping[str, GGUFFamily] = {
    name: family for group in GROUPS for name, family in group.GGUF_FAMILIES.items()
}
"""Families by llama.cpp's name of the architecture."""

TENSORS: Mapping[str, LayerTensors] = {name: tensors for group in GROUPS for name, tensors in group.TENSORS.items()}
"""Tensors of a layer, by `ModelConfig.architecture`."""
