"""The text part of a multimodal checkpoint of Hugging Face: its configuration and its tensors.

GGUF files usually have the text part only. Those of Ollama may have the tensors of the others, too.

Without images such a model computes what the class of its text part computes. Other parts are never read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.models.errors import ModelFormatError

PREFIXES = ("model.language_model.", "language_model.model.", "model.text_model.")
"""Beginnings of the names of text tensors, which stand for "model."."""
OUTPUT_PREFIX = "language_model.lm_head."
OTHER_PARTS = (
    "multi_modal_projector.",
    "vision_tower.",
    "vision_model.",
    "model.multi_modal_projector.",
    "model.vision_tower.",
    "model.vision_model.",
    "model.connector.",
    "model.image_newline",
    "image_newline",
    "model.visual.",
    "visual.",
)
"""Beginnings of the names of tensors that only images need."""
_OF_ALL_PARTS = ("quantization_config", "compression_config", "tie_word_embeddings")
"""Keys of config.json that stand beside `text_config`, but mean the text part, too."""
GGUF_VISION_KEY = "vision.block_count"
"""Key of a GGUF file, after the architecture's name, that also has the vision part."""
GGUF_OTHER_PARTS = ("v.", "mm.")


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A class of transformers whose text part is a class of its own."""

    classes: Mapping[str, str]
    """Classes of the text part, by its `model_type`."""
    default_type: str
    may_be_flat: bool = False
    """True if older files have the values of the text part beside those of the other parts, and no `text_config`."""


_TEXT_OF_LLAVA = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
WRAPPERS: Mapping[str, Wrapper] = {
    "Gemma3ForConditionalGeneration": Wrapper({"gemma3_text": "Gemma3ForCausalLM"}, "gemma3_text"),
    "Mistral3ForConditionalGeneration": Wrapper(
        {"mistral": "MistralForCausalLM", "ministral3": "Ministral3ForCausalLM"}, "mistral"
    ),
    "LlavaForConditionalGeneration": Wrapper(_TEXT_OF_LLAVA, "llama"),
    "LlavaNextForConditionalGeneration": Wrapper(_TEXT_OF_LLAVA, "llama"),
    "Qwen2VLForConditionalGeneration": Wrapper(
        {"qwen2_vl_text": "Qwen2ForCausalLM"}, "qwen2_vl_text", may_be_flat=True
    ),
    "Qwen2_5_VLForConditionalGeneration": Wrapper(
        {"qwen2_5_vl_text": "Qwen2ForCausalLM"}, "qwen2_5_vl_text", may_be_flat=True
    ),
    "Qwen3VLForConditionalGeneration": Wrapper({"qwen3_vl_text": "Qwen3ForCausalLM"}, "qwen3_vl_text"),
    "InternVLForConditionalGeneration": Wrapper(
        {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}, "qwen2"
    ),
    "SmolVLMForConditionalGeneration": Wrapper({"llama": "LlamaForCausalLM"}, "llama"),
    "Idefics3ForConditionalGeneration": Wrapper({"llama": "LlamaForCausalLM"}, "llama"),
}
"""Multimodal classes by the name in `architectures`."""


def is_wrapper(content: Mapping[str, Any]) -> bool:
    return _name(content) in WRAPPERS


def text_content(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of config.json, or for a multimodal checkpoint what it would be for its text part alone."""
    name = _name(content)
    if name is None or name not in WRAPPERS:
        return content
    wrapper, text = WRAPPERS[name], content.get("text_config")
    if text is None and wrapper.may_be_flat:
        text = {**content, "model_type": wrapper.default_type}
    if not isinstance(text, dict):
        raise ModelFormatError(f"text_config in the model's config.json must be an object, since the model is {name}")
    model_type = text.get("model_type") or wrapper.default_type
    if not isinstance(model_type, str) or model_type not in wrapper.classes:
        raise ModelFormatError(
            f"{name} with a text part of the type {model_type!r} is not supported (supported: {', '.join(wrapper.classes)})"
        )
    outer = {key: content[key] for key in _OF_ALL_PARTS if key in content}
    return {**text, **outer, "architectures": [wrapper.classes[model_type]]}


def text_tensor(name: str) -> str | None:
    """Return the name that a tensor of a multimodal checkpoint would have in its text part alone; None for other parts."""
    if name.startswith(OTHER_PARTS):
        return None
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return f"model.{name.removeprefix(prefix)}"
    return f"lm_head.{name.removeprefix(OUTPUT_PREFIX)}" if name.startswith(OUTPUT_PREFIX) else name


def _name(content: Mapping[str, Any]) -> str | None:
    names = content.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    return name if isinstance(name, str) else None
