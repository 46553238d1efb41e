/* Rows of floats in one of the types of files. */
#ifndef PAGODA_FLOAT_ROWS_H
#define PAGODA_FLOAT_ROWS_H

#include "arithmetic.h"

enum float_type { FLOAT32, FLOAT16, BFLOAT16 };

INLINE float widen_half(uint16_t half) {
    if ((half & 0x7c00) != 0x7c00) return half_to_float(half);
    return float_of((int32_t)((uint32_t)(half & 0x8000) << 16 | 0x7f800000 | (uint32_t)(half & 0x3ff) << 13));
}

/* Read `count` floats, the first of them at `first`. */
INLINE void read_floats(const void *floats, int64_t type, int64_t first, int64_t count, float *out) {
    const uint16_t *halves = (const uint16_t *)floats + first;
    if (type == FLOAT32) memcpy(out, (const float *)floats + first, count * sizeof(float));
    else if (type == FLOAT16)
        for (int64_t i = 0; i < count; i++) out[i] = widen_half(halves[i]);
    else
        for (int64_t i = 0; i < count; i++) out[i] = float_of((int32_t)((uint32_t)halves[i] << 16));
}

#endif
