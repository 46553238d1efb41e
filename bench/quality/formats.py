"""The emulated number formats: llama.cpp's arithmetic, and the formats that were considered for the default mode.

Weights "as in the file" are GGML blocks of 32, in a Q4_1 file of four bits with a scale and a minimum.
"""

from collections.abc import Mapping

from bench.quality.emulation import Format
from bench.quality.rounding import bfloat16, half, integers, outliers_apart, remainders_too, rotated
from worker.kernels.grouped import OUTSTANDING

BYTE, FOURTEEN_BITS = 127, 8192

GGML_Q8 = integers(BYTE, block=32, half_scale=True)
"""Q8_0; also Q8_1, whose additional sum per block does not affect the rounding."""

LLAMA_CPP: Mapping[str, Format] = {
    "llama.cpp on the file, emulated": Format(activations=GGML_Q8, kv=half),
    "llama.cpp on the file as Q8_0, emulated": Format(weights=GGML_Q8, activations=GGML_Q8, kv=half),
}
"""llama.cpp's formats for files with blocks of 32 elements. With k-quants it rounds activations in blocks of 256."""

per_row, per_32, per_64, per_128 = (integers(BYTE, block=block) for block in (None, 32, 64, 128))
precise = integers(FOURTEEN_BITS)
rotated_per_row = rotated(64, per_row)

FILE = "weights as in the file, activations"
CHANNEL = "int8 per channel, activations"

INTEGER_MODE = "int8 per 64, activations int8 per 64, both rotated by 64"
INTEGER_FILE = f"{FILE} int8 per 32, outstanding blocks twice"
"""The worker's own arithmetic: INTEGER_MODE for weights that are floats in the file, INTEGER_FILE for those that are integers."""

CONSIDERED: Mapping[str, Format] = {
    f"{FILE} 14 bits": Format(activations=precise),
    INTEGER_FILE: Format(activations=remainders_too(OUTSTANDING, per_32, 32)),
    f"{FILE} int8 per 32": Format(activations=per_32),
    f"{FILE} int8": Format(activations=per_row),
    f"{FILE} int8, beyond 6 rms exact": Format(activations=outliers_apart(6, per_row)),
    f"{FILE} int8, beyond 4 rms exact": Format(activations=outliers_apart(4, per_row)),
    f"{FILE} int8, rotated by 64": Format(activations=rotated_per_row),
    f"{CHANNEL} int8 per 32": Format(weights=per_row, activations=per_32),
    f"{CHANNEL} int8": Format(weights=per_row, activations=per_row),
    f"{CHANNEL} 14 bits, both rotated by 64": Format(weights=rotated_per_row, activations=rotated(64, precise)),
    f"{CHANNEL} int8, both rotated by 64": Format(weights=rotated_per_row, activations=rotated_per_row),
    "int8 per 128, activations 14 bits": Format(weights=per_128, activations=precise),
    "int8 per 64, activations int8 per 64": Format(weights=per_64, activations=per_64),
    INTEGER_MODE: Format(weights=rotated(64, per_64), activations=rotated(64, per_64)),
    "int8 per 32, activations 14 bits": Format(weights=per_32, activations=precise),
    "keys and values int8 per token and head": Format(kv=per_row),
    "keys and values bfloat16": Format(kv=bfloat16),
}
