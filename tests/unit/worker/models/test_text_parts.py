"""Text parts of multimodal checkpoints: the same logits as transformers' whole model without images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import load_file, save_file

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.description import describe
from pagoda.models.formats.gguf_config import WITH_VISION
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.formats.text_part import WRAPPERS
from pagoda.models.model import Model
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_families import COMMON, FAMILIES, VOCAB_SIZE, make_model, reference_logits, save_gguf
from worker.kernels.reference import ReferenceKernels
from worker.models.families import load_model

TOKEN_IDS = [(7 * i * i + 3 * i) % VOCAB_SIZE for i in range(77)]
SIGLIP = {
    **{"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
CLIP = {**SIGLIP, "model_type": "clip_vision_model", "projection_dim": 16}
PIXTRAL = {**SIGLIP, "model_type": "pixtral", "head_dim": 8}
IDEFICS3 = {**SIGLIP, "model_type": "idefics3_vision"}
INTERNVL = {**SIGLIP, "model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]}
QWEN2_VISION = {"depth": 1, "embed_dim": 16, "hidden_size": 96, "num_heads": 2}
QWEN25_VISION = {"depth": 1, "hidden_size": 16, "out_hidden_size": 96, "num_heads": 2, "intermediate_size": 16}
QWEN3_VISION = {**QWEN25_VISION, "out_hidden_size": 48, "deepstack_visual_indexes": [0]}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}}
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("Gemma3", "gemma3", {"model_type": "gemma3_text"}, {"vision_config": SIGLIP, "mm_tokens_per_image": 4}),
    "mistral3": ("Mistral3", "mistral", {"model_type": "mistral"}, {"vision_config": PIXTRAL}),
    "ministral3": ("Mistral3", "ministral3", {"model_type": "ministral3"}, {"vision_config": PIXTRAL}),
    "llava": ("Llava", "qwen2", {"model_type": "qwen2"}, {"vision_config": CLIP}),
    "llava next": ("LlavaNext", "mistral", {"model_type": "mistral"}, {"vision_config": CLIP}),
    "qwen2 vl": ("Qwen2VL", "qwen2", {**MROPE, "model_type": "qwen2_vl_text"}, {"vision_config": QWEN2_VISION}),
    "qwen2.5 vl": ("Qwen2_5_VL", "qwen2", {**MROPE, "model_type": "qwen2_5_vl_text"}, {"vision_config": QWEN25_VISION}),
    "qwen3 vl": ("Qwen3VL", "qwen3", {**MROPE, "model_type": "qwen3_vl_text"}, {"vision_config": QWEN3_VISION}),
    "internvl": ("InternVL", "qwen3", {"model_type": "qwen3"}, {"vision_config": INTERNVL}),
    "smolvlm": (
        "SmolVLM",
        "llama3",
        {"model_type": "llama"},
        {"vision_config": {**IDEFICS3, "model_type": "smolvlm_vision"}},
    ),
    "idefics3": ("Idefics3", "llama3", {"model_type": "llama"}, {"vision_config": IDEFICS3}),
}


def make_wrapper(case: str, *, tied: bool) -> Any:
    name, family, text, others = CASES[case]
    settings = {**COMMON, **FAMILIES[family].config, **text}
    if settings["head_dim"] is None:
        del settings["head_dim"]
    settings["tie_word_embeddings"] = tied
    config = getattr(transformers, f"{name}Config")(text_config=settings, tie_word_embeddings=tied, **others)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.uniform_(0.5, 1.5).sub_(FAMILIES[family].norm_offset)
    return model


def described(directory: Path) -> Model:
    model = describe("tiny", directory, digest="0" * 64, size_bytes=1)
    check_tensors(model)
    return model


def logits_of(model: Model) -> torch.Tensor:
    kernels = ReferenceKernels()
    return SteppedModel(load_model(model, kernels), kernels).run("a", TOKEN_IDS, [40, 1])


def rename(directory: Path, old: str, new: str) -> None:
    """Rename the tensors that begin with `old`, as other versions of transformers name them."""
    path = directory / "model.safetensors"
    tensors = {name.replace(old, new, 1) if name.startswith(old) else name: x for name, x in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def test_every_wrapper_is_tested() -> None:
    assert {f"{name}ForConditionalGeneration" for name, *_ in CASES.values()} == set(WRAPPERS)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_whole_model(case: str, tied: bool, tmp_path: Path) -> None:
    theirs = make_wrapper(case, tied=tied)
    theirs.save_pretrained(tmp_path)
    model, expected = described(tmp_path), reference_logits(theirs, TOKEN_IDS)
    assert (model.config.is_text_part, model.config.tie_word_embeddings) == (True, tied)
    assert float((logits_of(model) - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_both_spellings_of_the_tensors(prefix: str, tmp_path: Path) -> None:
    theirs = make_wrapper("mistral3", tied=False)
    theirs.save_pretrained(tmp_path)
    expected = logits_of(described(tmp_path))
    for old in ("model.language_model.", "language_model.model."):
        rename(tmp_path, old, prefix)
    if prefix.startswith("language_model"):
        rename(tmp_path, "lm_head.", "language_model.lm_head.")
        rename(tmp_path, "model.vision_tower.", "vision_tower.")
        rename(tmp_path, "model.multi_modal_projector.", "multi_modal_projector.")
    assert torch.equal(logits_of(described(tmp_path)), expected)


def test_older_files_of_qwen_have_no_text_config(tmp_path: Path) -> None:
    make_wrapper("qwen2.5 vl", tied=False).save_pretrained(tmp_path)
    expected = logits_of(described(tmp_path))
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    text = content.pop("text_config")
    del text["rope_parameters"]
    scaling = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}}
    path.write_text(json.dumps({**text, **content, **scaling, "model_type": "qwen2_5_vl"}))
    rename(tmp_path, "model.language_model.", "model.")
    rename(tmp_path, "model.visual.", "visual.")
    assert torch.equal(logits_of(described(tmp_path)), expected)


def test_only_the_text_part_counts(tmp_path: Path) -> None:
    theirs = make_wrapper("gemma3", tied=True)
    theirs.save_pretrained(tmp_path)
    assert described(tmp_path).num_parameters == theirs.model.language_model.num_parameters()


def test_a_tensor_of_no_part_is_left_over(tmp_path: Path) -> None:
    make_wrapper("gemma3", tied=True).save_pretrained(tmp_path)
    rename(tmp_path, "model.vision_tower.", "model.audio_tower.")
    rename(tmp_path, "vision_tower.", "audio_tower.")
    with pytest.raises(ModelFormatError, match=r"tensors that the model does not use: .*audio_tower\."):
        described(tmp_path)


def test_a_model_of_text_has_no_other_parts(tmp_path: Path) -> None:
    make_wrapper("gemma3", tied=True).save_pretrained(tmp_path)
    model = described(tmp_path)
    with pytest.raises(ModelFormatError, match="is missing"):
        check_tensors(replace(model, config=replace(model.config, is_text_part=False)))


VISION_TENSORS = ("v.patch_embedding.weight", "v.blk.0.attn_q.weight", "mm.mm_input_projection.weight")


def test_gguf_files_of_ollama_may_have_the_vision_part(tmp_path: Path) -> None:
    """Such a file does not state the rope scaling, which all Gemma 3 models with a vision part have."""
    stated = FAMILIES["gemma3"]
    left_out = ("rope.scaling.type", "rope.scaling.factor")
    metadata = {key: value for key, value in stated.metadata.items() if key not in left_out}
    family, theirs = replace(stated, metadata={**metadata, "vision.block_count": 1}), make_model(stated)
    model = save_gguf(family, theirs, tmp_path / "tiny.gguf", more_tensors=VISION_TENSORS)
    check_tensors(model)
    expected = reference_logits(theirs, TOKEN_IDS)
    assert float((logits_of(model) - expected).abs().max() / expected.abs().max()) < 1e-4
    assert model.num_parameters == theirs.num_parameters()


@pytest.mark.parametrize(("named", "text"), WITH_VISION.items())
def test_gguf_files_of_qwen_with_three_positions(named: str, text: str, tmp_path: Path) -> None:
    """Write the text part under the name of the whole model, as converters do."""
    theirs, path = make_model(FAMILIES[text]), tmp_path / "tiny.gguf"
    expected = logits_of(save_gguf(FAMILIES[text], theirs, path))
    plain, named_file = GGUFReader(path), GGUFWriter(tmp_path / "named.gguf", named)
    add: dict[type, Any] = {int: named_file.add_uint32, float: named_file.add_float32}
    for key, entry in plain.fields.items():
        if key.startswith(f"{text}."):
            value = entry.contents()
            add[type(value)](key.replace(text, named, 1), value)
    named_file.add_array(f"{named}.rope.dimension_sections", [4, 2, 2, 0])
    for tensor in plain.tensors:
        named_file.add_tensor(tensor.name, tensor.data)
    named_file.write_header_to_file()
    named_file.write_kv_data_to_file()
    named_file.write_tensors_to_file()
    named_file.close()
    model = describe("tiny", tmp_path / "named.gguf", digest="0" * 64, size_bytes=1)
    check_tensors(model)
    assert model.config.architecture == text
    assert torch.equal(logits_of(model), expected)


def test_gguf_files_of_text_have_no_vision_part(tmp_path: Path) -> None:
    family = FAMILIES["gemma3"]
    model = save_gguf(family, make_model(family), tmp_path / "tiny.gguf", more_tensors=VISION_TENSORS)
    with pytest.raises(ModelFormatError, match=r"does not use: mm\.mm_input_projection\.weight, v\."):
        check_tensors(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": None}, "text_config in the model's config.json must be an object"),
        ({"text_config": {"model_type": "mamba"}}, r"type 'mamba' is not supported \(supported: mistral, ministral3\)"),
        ({"text_config": {"model_type": ["mistral"]}}, "is not supported"),
        ({"quantization_config": {"quant_method": "other"}}, "quant"),
    ],
    ids=str,
)
def test_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    make_wrapper("mistral3", tied=True).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(ModelFormatError, match=message):
        described(tmp_path)
