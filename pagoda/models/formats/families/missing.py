"""The needs of well-known models that no family here meets, so that an error says why a model is refused."""

from collections.abc import Iterable, Mapping

from pagoda.models.errors import ModelFormatError

_SINKS = "it needs attention sinks and MXFP4 weights"
_PER_LAYER = "it needs embeddings per layer, and keys and values that layers share"
_LINEAR = "it needs linear attention with a state per sequence"
_LATENT = "it needs latent attention (MLA)"
_MAMBA = "it needs Mamba layers with a state per sequence"
_CONVOLUTION = "it needs convolutions with a state per sequence"
_SIGMOID = "it needs experts that are chosen by sigmoids"
_CHUNKS = "it needs attention in chunks"
_LAYER_NORM = "it needs LayerNorm"

NEEDS: Mapping[str, str] = {
    **dict.fromkeys(("GptOssForCausalLM", "gpt-oss"), _SINKS),
    **dict.fromkeys(
        (
            *("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration", "gemma3n"),
            *("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "gemma4"),
        ),
        _PER_LAYER,
    ),
    **dict.fromkeys(
        (
            *("Qwen3NextForCausalLM", "qwen3next", "Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration", "qwen35"),
            *("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration", "qwen35moe"),
            *("KimiLinearForCausalLM", "kimi-linear"),
        ),
        _LINEAR,
    ),
    **dict.fromkeys(
        (
            *("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM", "deepseek2"),
            *("Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM", "glm-dsa", "MiniCPM3ForCausalLM", "minicpm3"),
        ),
        _LATENT,
    ),
    **dict.fromkeys(
        (
            *("MambaForCausalLM", "mamba", "Mamba2ForCausalLM", "mamba2", "JambaForCausalLM", "jamba"),
            *("FalconH1ForCausalLM", "falcon-h1", "NemotronHForCausalLM", "nemotron_h", "nemotron_h_moe"),
            "granitehybrid",
        ),
        _MAMBA,
    ),
    **dict.fromkeys(("Lfm2ForCausalLM", "lfm2", "Lfm2MoeForCausalLM", "lfm2moe"), _CONVOLUTION),
    **dict.fromkeys(("Glm4MoeForCausalLM", "glm4moe", "MiniMaxM2ForCausalLM", "minimax-m2"), _SIGMOID),
    **dict.fromkeys(("Llama4ForCausalLM", "Llama4ForConditionalGeneration", "llama4"), _CHUNKS),
    **dict.fromkeys(
        (
            *("CohereForCausalLM", "command-r", "Cohere2ForCausalLM", "cohere2", "OlmoForCausalLM", "olmo"),
            *("StableLmForCausalLM", "stablelm", "PhiForCausalLM", "phi2", "Starcoder2ForCausalLM", "starcoder2"),
        ),
        _LAYER_NORM,
    ),
}
"""Needs by transformers' class and by llama.cpp's name of the architecture."""


def unsupported(name: object, where: str, supported: Iterable[str]) -> ModelFormatError:
    """Return the error for an architecture that is not supported; `where` says in which kind of file the others are."""
    needs = f": {NEEDS[name]}" if isinstance(name, str) and name in NEEDS else ""
    return ModelFormatError(
        f"architecture {name!r} is not supported{needs} (supported {where}: {', '.join(supported)})"
    )
