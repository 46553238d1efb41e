"""All families that can be read from Hugging Face's config.json. There is one entry per class of transformers."""

from collections.abc import Mapping

from pagoda.models.formats.families import gemma, llama, phi, qwen
from pagoda.models.formats.families.family import Family

FAMILIES: Mapping[str, Family] = {
    **llama.HF_FAMILIES,
    **qwen.HF_FAMILIES,
    **gemma.HF_FAMILIES,
    **phi.HF_FAMILIES,
}
"""Families by the name in `architectures`."""
