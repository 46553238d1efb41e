"""The formats that are emulated: llama.cpp's own arithmetic, and what was considered for the default mode.

Weights "as in the file" are GGML blocks of 32, of four bits with a scale and a minimum in a Q4_1 file.
"""

from collections.abc import Mapping

from bench.quality.emulation import Format
from bench.quality.rounding import bfloat16, half, integers, outliers_apart, rotated

BYTE, FOURTEEN_BITS = 127, 8192

GGML_Q8 = integers(BYTE, block=32, half_scale=True)
"""Q8_0, and without the block's sum Q8_1."""

LLAMA_CPP: Mapping[str, Format] = {
    "llama.cpp on the file, emulated": Format(activations=GGML_Q8, kv=half),
    "llama.cpp on the file as Q8_0, emulated": Format(weights=GGML_Q8, activations=GGML_Q8, kv=half),
}
"""For files of 32-element blocks; with k-quants llama.cpp rounds activations in blocks of 256."""

per_row, per_32, per_64, per_128 = (integers(BYTE, block=block) for block in (None, 32, 64, 128))
precise = integers(FOURTEEN_BITS)
turned = rotated(64, per_row)

FILE = "weights as in the file, activations"
CHANNEL = "int8 per channel, activations"

INTEGER_MODE = "int8 per 64, activations int8 per 64, both rotated by 64"
FOUR_BIT_FILE = f"{FILE} int8 per 32"
"""What the worker computes, keys and values apart: with weights of a file that are not in four bits, and with those that are."""

CONSIDERED: Mapping[str, Format] = {
    f"{FILE} 14 bits per token": Format(activations=precise),
    FOUR_BIT_FILE: Format(activations=per_32),
    f"{FILE} int8 per token": Format(activations=per_row),
    f"{FILE} int8 per token, beyond 6 rms exact": Format(activations=outliers_apart(6, per_row)),
    f"{FILE} int8 per token, beyond 4 rms exact": Format(activations=outliers_apart(4, per_row)),
    f"{FILE} int8 per token, rotated by 64": Format(activations=turned),
    f"{CHANNEL} int8 per 32": Format(weights=per_row, activations=per_32),
    f"{CHANNEL} int8 per token": Format(weights=per_row, activations=per_row),
    f"{CHANNEL} 14 bits per token, both rotated by 64": Format(weights=turned, activations=rotated(64, precise)),
    f"{CHANNEL} int8 per token, both rotated by 64": Format(weights=turned, activations=turned),
    "int8 per 128, activations 14 bits per token": Format(weights=per_128, activations=precise),
    "int8 per 64, activations int8 per 64": Format(weights=per_64, activations=per_64),
    INTEGER_MODE: Format(weights=rotated(64, per_64), activations=rotated(64, per_64)),
    "int8 per 32, activations 14 bits per token": Format(weights=per_32, activations=precise),
    "keys and values int8 per token and head": Format(kv=per_row),
    "keys and values bfloat16": Format(kv=bfloat16),
}
