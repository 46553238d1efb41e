"""All families that can be read from a GGUF file's metadata. There is one function per architecture."""

from collections.abc import Mapping

from pagoda.models.formats.families import gemma, llama, phi, qwen
from pagoda.models.formats.families.family import ReadFields

FAMILIES: Mapping[str, ReadFields] = {
    **llama.GGUF_FAMILIES,
    **qwen.GGUF_FAMILIES,
    **gemma.GGUF_FAMILIES,
    **phi.GGUF_FAMILIES,
}
"""Functions that return a family's fields, by llama.cpp's name of the architecture."""
