"""The type in which llama.cpp's quantizer stores each tensor, for the mixes that most files have."""

from collections.abc import Callable, Mapping

from bench.random_models.shapes import ModelShape, Tensor
from pagoda.models.formats.ggml_type import GGMLType

FILE_TYPES = {
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q2_K": 10,
    "Q3_K_M": 12,
    "Q4_K_M": 15,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "BF16": 32,
    "IQ4_XS": 30,
}
"""The mixes, with their numbers in `general.file_type`."""
BLOCKS_OF_32: Mapping[GGMLType, GGMLType] = {
    GGMLType.Q2_K: GGMLType.IQ4_NL,
    GGMLType.Q3_K: GGMLType.IQ4_NL,
    GGMLType.IQ4_XS: GGMLType.IQ4_NL,
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
}
"""The types that take the place of those with 256 weights in a block, for rows that are no multiple of 256."""


def type_of(tensor: Tensor, shape: ModelShape, mix: str) -> GGMLType:
    if not tensor.is_matrix:
        return GGMLType.F32
    chosen = _choose(tensor, shape, mix)
    return chosen if tensor.shape[-1] % chosen.block_size == 0 else BLOCKS_OF_32[chosen]


def _choose(tensor: Tensor, shape: ModelShape, mix: str) -> GGMLType:
    is_output = tensor.name == "output.weight" or (tensor.name == "token_embd.weight" and shape.is_tied)
    if is_output:
        return {"F16": GGMLType.F16, "BF16": GGMLType.BF16, "Q8_0": GGMLType.Q8_0}.get(mix, GGMLType.Q6_K)
    part = tensor.name.removesuffix(".weight").removesuffix("_exps").split(".")[-1]
    return _MIXES[mix](part, tensor.layer, shape.num_layers)


def _more_bits(layer: int | None, num_layers: int) -> bool:
    """Return True for the layers in which a mix stores two matrices with more bits: the first and last, and every third."""
    if layer is None:
        return False
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _q2_k(part: str, layer: int | None, num_layers: int) -> GGMLType:
    if part in ("attn_v", "attn_output", "ffn_down"):
        return GGMLType.Q3_K
    return GGMLType.Q2_K


def _q3_k_m(part: str, layer: int | None, num_layers: int) -> GGMLType:
    if part == "attn_v":
        return GGMLType.Q5_K if layer is not None and layer < 2 else GGMLType.Q4_K
    if part == "ffn_down":
        if layer is not None and layer < num_layers // 16:
            return GGMLType.Q5_K
        return GGMLType.Q4_K if _more_bits(layer, num_layers) else GGMLType.Q3_K
    return GGMLType.Q4_K if part == "attn_output" else GGMLType.Q3_K


def _k_m(usual: GGMLType) -> "_Mix":
    def choose(part: str, layer: int | None, num_layers: int) -> GGMLType:
        has_more = part in ("attn_v", "ffn_down") and _more_bits(layer, num_layers)
        return GGMLType.Q6_K if has_more else usual

    return choose


def _all(ggml_type: GGMLType) -> "_Mix":
    return lambda part, layer, num_layers: ggml_type


_Mix = Callable[[str, int | None, int], GGMLType]
_MIXES: Mapping[str, _Mix] = {
    "Q2_K": _q2_k,
    "Q3_K_M": _q3_k_m,
    "Q4_K_M": _k_m(GGMLType.Q4_K),
    "Q5_K_M": _k_m(GGMLType.Q5_K),
    **{name: _all(GGMLType[name]) for name in ("F16", "BF16", "Q4_0", "Q8_0", "Q6_K", "IQ4_XS")},
}
