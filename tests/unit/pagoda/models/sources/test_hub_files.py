"""Tests of the choice of files, against listings as real repositories have them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.errors import ModelFormatError, ModelNotFoundError
from pagoda.models.sources.hub_files import Selection, select_files
from pagoda.models.sources.remote import RemoteFile

BARTOWSKI = (
    ".gitattributes",
    "README.md",
    "Llama-3.2-1B-Instruct-IQ3_M.gguf",
    "Llama-3.2-1B-Instruct-IQ4_XS.gguf",
    "Llama-3.2-1B-Instruct-Q3_K_L.gguf",
    "Llama-3.2-1B-Instruct-Q4_0.gguf",
    "Llama-3.2-1B-Instruct-Q4_K_L.gguf",
    "Llama-3.2-1B-Instruct-Q4_K_M.gguf",
    "Llama-3.2-1B-Instruct-Q4_K_S.gguf",
    "Llama-3.2-1B-Instruct-Q8_0.gguf",
    "Llama-3.2-1B-Instruct-f16.gguf",
    "Llama-3.2-1B-Instruct.imatrix",
)
UNSLOTH = (
    ".gitattributes",
    "BF16/Qwen3-235B-A22B-BF16-00001-of-00002.gguf",
    "BF16/Qwen3-235B-A22B-BF16-00002-of-00002.gguf",
    "Q4_K_M/Qwen3-235B-A22B-Q4_K_M-00001-of-00003.gguf",
    "Q4_K_M/Qwen3-235B-A22B-Q4_K_M-00002-of-00003.gguf",
    "Q4_K_M/Qwen3-235B-A22B-Q4_K_M-00003-of-00003.gguf",
    "Qwen3-235B-A22B-Q2_K.gguf",
    "README.md",
    "UD-Q4_K_XL/Qwen3-235B-A22B-UD-Q4_K_XL-00001-of-00003.gguf",
    "UD-Q4_K_XL/Qwen3-235B-A22B-UD-Q4_K_XL-00002-of-00003.gguf",
    "UD-Q4_K_XL/Qwen3-235B-A22B-UD-Q4_K_XL-00003-of-00003.gguf",
    "config.json",
    "imatrix_unsloth.gguf",
)
GEMMA = ("gemma-3-4b-it-BF16.gguf", "gemma-3-4b-it-F16.gguf", "gemma-3-4b-it-Q8_0.gguf", "mmproj-BF16.gguf", "params")
QWEN_OFFICIAL = ("Qwen3-0.6B-Q8_0.gguf", "LICENSE", "params", "template", "system", "subfolder/params")
TINYLLAMA = ("config.json", "tinyllama-1.1b-chat-v1.0.Q2_K.gguf", "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf")
NO_QUANT = ("b-model.gguf", "a-model.gguf")
PHI = ("Phi-3-mini-4k-instruct-fp16.gguf", "Phi-3-mini-4k-instruct-q4.gguf")
MTP = ("mtp-Qwen3.5-Q8_0.gguf", "eagle3-Q4_K_M.gguf", "model-Q5_K_M.gguf")

LLAMA_8B = (
    ".gitattributes",
    "LICENSE",
    "README.md",
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "original/consolidated.00.pth",
    "original/params.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MISTRAL = (*LLAMA_8B, "consolidated.safetensors", "params.json", "tekken.json", "tokenizer.model.v3")
QWEN = ("config.json", "merges.txt", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json")
TWO_FILES = ("config.json", "model-part-b.safetensors", "model-part-a.safetensors", "onnx/model.onnx")
VARIANTS = ("config.json", "model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "flax_model.msgpack")


def choose(paths: tuple[str, ...], selector: str = "", weight_map: object = None) -> Selection:
    """Choose from a repository with these files, whose index has this weight_map."""

    def read(file: RemoteFile) -> bytes:
        assert file.path == "model.safetensors.index.json"
        named = weight_map or {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        return json.dumps({"metadata": {}, "weight_map": named}).encode()

    files = [RemoteFile(path=path, size_bytes=1, sha256="0" * 64) for path in paths]
    return select_files("hf.co/org/repo", files, selector, read)


@pytest.mark.parametrize(
    ("paths", "selector", "root"),
    [
        (BARTOWSKI, "", "Llama-3.2-1B-Instruct-Q4_K_M.gguf"),
        (BARTOWSKI, "Q8_0", "Llama-3.2-1B-Instruct-Q8_0.gguf"),
        (BARTOWSKI, "q4_k_l", "Llama-3.2-1B-Instruct-Q4_K_L.gguf"),
        (BARTOWSKI, "iq4_xs", "Llama-3.2-1B-Instruct-IQ4_XS.gguf"),
        (BARTOWSKI, "F16", "Llama-3.2-1B-Instruct-f16.gguf"),
        (BARTOWSKI, "Q3_K_L", "Llama-3.2-1B-Instruct-Q3_K_L.gguf"),
        (BARTOWSKI, "Llama-3.2-1B-Instruct-Q4_0.gguf", "Llama-3.2-1B-Instruct-Q4_0.gguf"),
        (BARTOWSKI, "llama-3.2-1b-instruct-q4_0", "Llama-3.2-1B-Instruct-Q4_0.gguf"),
        (BARTOWSKI, "4_K_S", "Llama-3.2-1B-Instruct-Q4_K_S.gguf"),
        (UNSLOTH, "", "Q4_K_M/Qwen3-235B-A22B-Q4_K_M-00001-of-00003.gguf"),
        (UNSLOTH, "UD-Q4_K_XL", "UD-Q4_K_XL/Qwen3-235B-A22B-UD-Q4_K_XL-00001-of-00003.gguf"),
        (UNSLOTH, "Q4_K_XL", "UD-Q4_K_XL/Qwen3-235B-A22B-UD-Q4_K_XL-00001-of-00003.gguf"),
        (UNSLOTH, "BF16", "BF16/Qwen3-235B-A22B-BF16-00001-of-00002.gguf"),
        (UNSLOTH, "qwen3-235b-a22b-bf16", "BF16/Qwen3-235B-A22B-BF16-00001-of-00002.gguf"),
        (UNSLOTH, "Qwen3-235B-A22B-BF16-00002-of-00002.gguf", "BF16/Qwen3-235B-A22B-BF16-00001-of-00002.gguf"),
        (UNSLOTH, "Q2_K", "Qwen3-235B-A22B-Q2_K.gguf"),
        (GEMMA, "", "gemma-3-4b-it-Q8_0.gguf"),
        (GEMMA, "F16", "gemma-3-4b-it-F16.gguf"),
        (GEMMA, "BF16", "gemma-3-4b-it-BF16.gguf"),
        (QWEN_OFFICIAL, "", "Qwen3-0.6B-Q8_0.gguf"),
        (TINYLLAMA, "", "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"),
        (TINYLLAMA, "q2_k", "tinyllama-1.1b-chat-v1.0.Q2_K.gguf"),
        (NO_QUANT, "", "b-model.gguf"),
        (PHI, "", "Phi-3-mini-4k-instruct-fp16.gguf"),
        (PHI, "q4", "Phi-3-mini-4k-instruct-q4.gguf"),
        (MTP, "", "model-Q5_K_M.gguf"),
        (("Q4_K_M/model.gguf", "Q8_0/model.gguf"), "Q8_0", "Q8_0/model.gguf"),
        (("gguf/model-Q4_K_M.gguf", *QWEN), "Q4_K_M", "gguf/model-Q4_K_M.gguf"),
    ],
)
def test_gguf_file_of_a_selector(paths: tuple[str, ...], selector: str, root: str) -> None:
    selection = choose(paths, selector)
    assert selection.root == selection.files[0].path == root


def test_split_gguf_file_has_all_its_parts_in_order() -> None:
    shuffled = tuple(sorted(UNSLOTH, reverse=True))
    assert [file.path for file in choose(shuffled).files] == [path for path in UNSLOTH if path.startswith("Q4_K_M/")]


def test_missing_part_of_a_split_gguf_file() -> None:
    paths = tuple(path for path in UNSLOTH if "00002-of-00003" not in path)
    with pytest.raises(ModelFormatError, match=r"lacks a part of Qwen3-235B-A22B-Q4_K_M: .*-00002-of-00003\.gguf"):
        choose(paths)


def test_part_count_of_a_hostile_name_is_not_believed() -> None:
    with pytest.raises(ModelFormatError, match="must have at most 1024 parts"):
        choose(("m-00001-of-99999.gguf",))


def test_unknown_quantization_lists_those_that_are_there() -> None:
    with pytest.raises(ModelNotFoundError) as failure:
        choose(UNSLOTH, "Q5_K_M")
    assert str(failure.value) == (
        "hf.co/org/repo has no GGUF file 'Q5_K_M' (available: BF16, Q2_K, Q4_K_M, UD-Q4_K_XL)"
    )
    with pytest.raises(ModelNotFoundError, match=r"\(available: a-model, b-model\)"):
        choose(NO_QUANT, "Q8_0")
    # Part of a word is no quantization.
    with pytest.raises(ModelNotFoundError, match="has no GGUF file 'Q4_K'"):
        choose(BARTOWSKI, "Q4_K")


def test_selector_is_not_a_pattern() -> None:
    with pytest.raises(ModelNotFoundError):
        choose(BARTOWSKI, "Q4.K.M")


def test_projector_is_not_a_model_but_is_mentioned() -> None:
    assert choose(GEMMA).warnings == ("images cannot be used: the projector mmproj-BF16.gguf is not supported",)
    with pytest.raises(ModelFormatError, match="has no model that can be served"):
        choose(("mmproj-F16.gguf",))


def test_settings_beside_gguf_files() -> None:
    selection = choose(QWEN_OFFICIAL)
    assert set(selection.overrides) == {"params", "template", "system"}
    assert [file.path for file in selection.files] == ["Qwen3-0.6B-Q8_0.gguf"]


def test_checkpoint_has_the_files_of_its_index_and_small_files() -> None:
    expected = {
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for paths in (LLAMA_8B, MISTRAL):
        selection = choose(paths)
        assert {file.path for file in selection.files} == expected
        assert selection.root == ""


def test_checkpoint_has_the_file_that_says_how_it_is_quantized() -> None:
    paths = {"config.json", "quantize_config.json", "tokenizer.json", "gptq_model-4bit-128g.safetensors"}
    assert {file.path for file in choose((*paths, "README.md")).files} == paths


@pytest.mark.parametrize(
    ("paths", "weights"),
    [
        (QWEN, ["model.safetensors"]),
        (VARIANTS, ["model.safetensors"]),
        (TWO_FILES, ["model-part-a.safetensors", "model-part-b.safetensors"]),
        (("model-Q4_K_M.gguf", *QWEN), ["model.safetensors"]),
    ],
    ids=["one file", "variants", "no index", "gguf too"],
)
def test_weights_of_a_checkpoint(paths: tuple[str, ...], weights: list[str]) -> None:
    chosen = [file.path for file in choose(paths).files]
    assert [path for path in chosen if path.endswith((".safetensors", ".gguf"))] == weights


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "model-00009-of-00002.safetensors"}, r"lacks the file 'model-00009-of-00002\.safetensors'"),
        ({"a": "../config.json"}, "is damaged"),
        ({"a": 3}, "lacks the file '3'"),
        (["a"], "is damaged"),
    ],
    ids=["missing file", "other folder", "number", "list"],
)
def test_damaged_index(weight_map: object, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        choose(LLAMA_8B, weight_map=weight_map)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("config.json", "pytorch_model.bin"), r"only pickled weights \(pytorch_model\.bin\)"),
        (("config.json", "consolidated.00.pth"), "only pickled weights"),
        (("params.json", "consolidated.safetensors", "tekken.json"), "only weights in the Mistral format"),
        (("adapter_config.json", "adapter_model.safetensors"), "is an adapter"),
        (("model_index.json", "unet/diffusion_pytorch_model.safetensors"), "is a pipeline of diffusers"),
        (("model.safetensors",), "has safetensors but no config.json"),
        (("README.md",), "has no model that can be served: it needs a GGUF file, or config.json with safetensors"),
        ((), "has no model that can be served"),
    ],
    ids=["bin", "pth", "mistral", "adapter", "diffusers", "no config", "empty", "nothing"],
)
def test_repository_without_a_readable_model(paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        choose(paths)


def test_quantization_of_a_repository_without_gguf_files() -> None:
    with pytest.raises(ModelNotFoundError, match="has no GGUF files, so it has no 'Q4_K_M'; leave out ':Q4_K_M'"):
        choose(QWEN, "Q4_K_M")


words = st.sampled_from(
    (
        "config.json",
        "model",
        "Q4_K_M",
        "q8_0",
        "-",
        ".",
        "/",
        ".gguf",
        ".safetensors",
        "-00001-of-00002.gguf",
        "mmproj",
        "x.bin",
    )
)
paths = st.lists(words, min_size=1, max_size=5).map("".join)


@given(listed=st.lists(paths, max_size=8, unique=True), selector=st.sampled_from(("", "Q4_K_M", "q8_0", "model", "(")))
def test_any_repository_has_a_model_or_is_refused(listed: list[str], selector: str) -> None:
    try:
        selection = choose(tuple(listed), selector)
    except (ModelFormatError, ModelNotFoundError) as error:
        assert str(error).startswith(("hf.co/org/repo ", "the model.safetensors.index.json of hf.co/org/repo "))
    else:
        chosen = [file.path for file in selection.files]
        assert set(chosen) <= set(listed)
        assert selection.root in ("", chosen[0])
        assert any(path.endswith((".gguf", ".safetensors")) for path in chosen)
