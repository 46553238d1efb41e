/* The factors of a panel's span, by output: in 16 bits, in 32 bits, or as small integers that are multiplied with factors d and
   dmin of the whole span. Products of such integers with numbers of 16 bits are exact in float32. */
#ifndef PAGODA_GROUPED_FACTORS_H
#define PAGODA_GROUPED_FACTORS_H

#include "grouped.h"

enum factors {
    HALF,           /* a scale for each 32 inputs */
    HALF_PAIR,      /* and a minimum */
    FLOAT_PAIR,     /* both in 32 bits */
    SIX_BIT_PAIR,   /* for each 32 of 256 inputs six bits of a scale and of a minimum */
    SIX_BITS_OF_16, /* for each 16 of 256 inputs six bits, the scale plus 32 */
    FOUR_BIT_PAIR,  /* for each 16 of 256 inputs four bits of a scale and of a minimum */
    BYTE,           /* for each 32 of 256 inputs a signed byte */
    BYTE_OF_16,     /* for each 16 of 256 inputs */
    HALF_ZERO_32,   /* a scale in 16 bits for each 32 inputs, and the integer that means zero, a signed byte */
    HALF_ZERO_64,   /* for each 64 */
    HALF_ZERO_128,  /* for each 128 */
    FLOAT_ZERO_32,  /* a scale in 32 bits for each 32 inputs, and a zero */
};

enum { MOST_GROUPS = 16 };

/* A span's factors of one output, as read from the file. */
struct file_factors {
    uint16_t d, dmin;
    float scale, minimum;
    int8_t zero;
    uint8_t scales[MOST_GROUPS], minima[MOST_GROUPS];
};

/* A span's factors of a panel. */
struct span_factors {
    float scales[MOST_GROUPS][PANEL], minima[MOST_GROUPS][PANEL];
} __attribute__((aligned(64)));

INLINE int has_zero(enum factors kind) { return kind >= HALF_ZERO_32; }
INLINE int span_of(enum factors kind) {
    if (kind == HALF_ZERO_64) return 64;
    if (kind == HALF_ZERO_128) return 128;
    return kind <= FLOAT_PAIR || has_zero(kind) ? BLOCK : LONGEST_SPAN;
}
/* Return true if the factors of groups are computed from those of the span. */
INLINE int are_decoded(enum factors kind) { return kind > FLOAT_PAIR && !has_zero(kind); }
INLINE int group_of(enum factors kind) {
    return kind == SIX_BITS_OF_16 || kind == FOUR_BIT_PAIR || kind == BYTE_OF_16 ? 16 : 32;
}
INLINE int has_minimum(enum factors kind) {
    return kind == HALF_PAIR || kind == FLOAT_PAIR || kind == SIX_BIT_PAIR || kind == FOUR_BIT_PAIR;
}
INLINE int64_t factor_bytes(enum factors kind) {
    static const int64_t bytes[] = {2, 4, 8, 4 + 12, 2 + 12, 4 + 16, 2 + 8, 2 + 16, 2 + 1, 2 + 1, 2 + 1, 4 + 1};
    return bytes[kind] * PANEL;
}
/* Return where the zeros begin. */
INLINE int64_t zeros_of(enum factors kind) { return factor_bytes(kind) - PANEL; }
/* Return where the small integers begin. */
INLINE int64_t integer_factors(enum factors kind) { return (has_minimum(kind) ? 2 : 1) * PANEL * sizeof(uint16_t); }

typedef int32_t ints __attribute__((vector_size(4 * LANES)));

INLINE ints load_ints(const uint8_t *x) {
    ints lanes;
    memcpy(&lanes, x, sizeof lanes);
    return lanes;
}
/* Load signed bytes. GCC 12 converts vectors of bytes one element at a time. */
INLINE ints load_small_ints(const uint8_t *x) {
#if LANES == 16
    return (ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)x));
#elif defined(__AVX2__)
    return (ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)x));
#else
    ints lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = (int8_t)x[i];
    return lanes;
#endif
}
INLINE floats ints_to_floats(ints x) { return __builtin_convertvector(x, floats); }

/* Return one of 16 numbers of six bits: five of them in each word of 32 bits, and the last one in the words' upper two bits. */
INLINE ints six_bits(const ints *words, int index) {
    if (index < 15) return words[index / 5] >> 6 * (index % 5) & 63;
    return (words[0] >> 30 & 3) | (words[1] >> 28 & 12) | (words[2] >> 26 & 48);
}

INLINE void decode_factors(enum factors kind, const uint8_t *span, struct span_factors *factors) {
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        int o = v * LANES, groups = LONGEST_SPAN / group_of(kind);
        const uint8_t *integers = span + integer_factors(kind);
        floats d = load_half_floats((const uint16_t *)span + o);
        floats dmin = has_minimum(kind) ? load_half_floats((const uint16_t *)span + PANEL + o) : d;
        ints words[3];
        if (kind == SIX_BIT_PAIR || kind == SIX_BITS_OF_16)
            for (int w = 0; w < 3; w++) words[w] = load_ints(integers + (w * PANEL + o) * sizeof(int32_t));
#pragma GCC unroll 16
        for (int g = 0; g < groups; g++) {
            ints scale, minimum = {0};
            if (kind == SIX_BIT_PAIR) scale = six_bits(words, g), minimum = six_bits(words, g + 8);
            else if (kind == SIX_BITS_OF_16) scale = six_bits(words, g) - 32;
            else if (kind == FOUR_BIT_PAIR) {
                ints pair = load_small_ints(integers + g * PANEL + o);
                scale = pair & 15, minimum = pair >> 4 & 15;
            } else scale = load_small_ints(integers + g * PANEL + o);
            store_floats(factors->scales[g] + o, d * ints_to_floats(scale));
            if (has_minimum(kind)) store_floats(factors->minima[g] + o, dmin * ints_to_floats(-minimum));
        }
    }
}

INLINE floats load_factors(enum factors kind, const uint8_t *span, const float *decoded, int is_minimum, int o) {
    int64_t place = is_minimum * PANEL + o;
    if (are_decoded(kind)) return load_floats(decoded + o);
    if (kind == FLOAT_PAIR || kind == FLOAT_ZERO_32) return load_floats((const float *)span + place);
    return load_half_floats((const uint16_t *)span + place);
}

/* Store 16 numbers of six bits, as six_bits reads them. */
static inline void put_six_bits(uint8_t *integers, int64_t o, const uint8_t *low, const uint8_t *high) {
    uint32_t words[3] = {0};
    for (int index = 0; index < 15; index++) {
        uint32_t value = index < 8 ? low[index] : high[index - 8];
        words[index / 5] |= value << 6 * (index % 5);
    }
    for (int w = 0; w < 3; w++) {
        words[w] |= (uint32_t)(high[7] >> 2 * w & 3) << 30;
        memcpy(integers + (w * PANEL + o) * sizeof *words, words + w, sizeof *words);
    }
}

static inline void pack_factors(enum factors kind, const struct file_factors *file, uint8_t *span, int64_t o) {
    if (has_zero(kind)) span[zeros_of(kind) + o] = (uint8_t)file->zero;
    if (kind == FLOAT_ZERO_32) {
        memcpy(span + o * sizeof(float), &file->scale, sizeof(float));
        return;
    }
    if (kind == FLOAT_PAIR) {
        memcpy(span + o * sizeof(float), &file->scale, sizeof(float));
        memcpy(span + (PANEL + o) * sizeof(float), &file->minimum, sizeof(float));
        return;
    }
    memcpy(span + o * sizeof(uint16_t), &file->d, sizeof(uint16_t));
    if (has_minimum(kind)) memcpy(span + (PANEL + o) * sizeof(uint16_t), &file->dmin, sizeof(uint16_t));
    if (!are_decoded(kind)) return;
    uint8_t *integers = span + integer_factors(kind);
    if (kind == SIX_BIT_PAIR) put_six_bits(integers, o, file->scales, file->minima);
    else if (kind == SIX_BITS_OF_16) put_six_bits(integers, o, file->scales, file->scales + 8);
    else
        for (int g = 0; g < LONGEST_SPAN / group_of(kind); g++)
            integers[g * PANEL + o] = kind == FOUR_BIT_PAIR ? file->scales[g] | file->minima[g] << 4 : file->scales[g];
}

#endif
