/* The two sums of attention over 16-bit parts: query times keys, and weights times values.

   With AVX2, or in plain loops. All are exact, so they give the same integers; they leave 32 bits never: products of the query's
   high part and a key are below 2^11 * 2^15, over DOT_ELEMENTS elements below 2^31, and those of weights likewise. */
#ifndef PAGODA_ATTENTION_SUMS_H
#define PAGODA_ATTENTION_SUMS_H

#include "arithmetic.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { PART_BITS = 11, HALF_PART = 1 << (PART_BITS - 1) };
enum { KEYS_AT_ONCE = 4, DOT_ELEMENTS = 32, TILE = 32, SIZE_UNIT = 16 };

static const double HIGH_PART = 1 << PART_BITS;

INLINE double dot_elements(const int16_t *high, const int16_t *low, const int16_t *key, int64_t size) {
    int32_t high_sum = 0, low_sum = 0;
    for (int64_t h = 0; h < size; h++) {
        high_sum += high[h] * key[h];
        low_sum += low[h] * key[h];
    }
    return high_sum * HIGH_PART + low_sum;
}

#if defined(__AVX2__)

INLINE __m256i load16(const int16_t *x) { return _mm256_loadu_si256((const void *)x); }

/* Four vectors' sums within each half: [a b c d | a b c d]. The halves have met DOT_ELEMENTS products each. */
INLINE __m256i add_within_halves(const __m256i sums[KEYS_AT_ONCE]) {
    return _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
}

INLINE __m256d add_halves(__m256i sums) {
    return _mm256_add_pd(_mm256_cvtepi32_pd(_mm256_castsi256_si128(sums)),
                         _mm256_cvtepi32_pd(_mm256_extracti128_si256(sums, 1)));
}

/* Over size elements from `from` on, up to 2 * DOT_ELEMENTS of them. */
INLINE __m256d dot_some(const int16_t *high, const int16_t *low, const int16_t *const keys[KEYS_AT_ONCE], int64_t from,
                        int size) {
    __m256i high_sums[KEYS_AT_ONCE], low_sums[KEYS_AT_ONCE];
    for (int i = 0; i < KEYS_AT_ONCE; i++) high_sums[i] = low_sums[i] = _mm256_setzero_si256();
    for (int h = 0; h < size; h += SIZE_UNIT) {
        __m256i high_part = load16(high + from + h), low_part = load16(low + from + h);
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            __m256i key = load16(keys[i] + from + h);
            high_sums[i] = _mm256_add_epi32(high_sums[i], _mm256_madd_epi16(high_part, key));
            low_sums[i] = _mm256_add_epi32(low_sums[i], _mm256_madd_epi16(low_part, key));
        }
    }
    __m256d scaled = _mm256_mul_pd(add_halves(add_within_halves(high_sums)), _mm256_set1_pd(HIGH_PART));
    return _mm256_add_pd(scaled, add_halves(add_within_halves(low_sums)));
}

/* Both parts of a query times KEYS_AT_ONCE keys, rounded once to float32. */
INLINE void dot_keys(const int16_t *high, const int16_t *low, const int16_t *const keys[KEYS_AT_ONCE], int64_t size,
                     float *out) {
    __m256d sums = _mm256_setzero_pd();
    int64_t h = 0;
    for (; h + 2 * DOT_ELEMENTS <= size; h += 2 * DOT_ELEMENTS)
        sums = _mm256_add_pd(sums, dot_some(high, low, keys, h, 2 * DOT_ELEMENTS));
    for (; h + SIZE_UNIT <= size; h += SIZE_UNIT) sums = _mm256_add_pd(sums, dot_some(high, low, keys, h, SIZE_UNIT));
    if (h < size) {
        double rest[KEYS_AT_ONCE];
        for (int i = 0; i < KEYS_AT_ONCE; i++) rest[i] = dot_elements(high + h, low + h, keys[i] + h, size - h);
        sums = _mm256_add_pd(sums, _mm256_loadu_pd(rest));
    }
    _mm_storeu_ps(out, _mm256_cvtpd_ps(sums));
}

INLINE void add_sums(double *sums, __m256i high, __m256i low) {
    __m256d scale = _mm256_set1_pd(HIGH_PART);
    __m256d first = _mm256_add_pd(_mm256_mul_pd(_mm256_cvtepi32_pd(_mm256_castsi256_si128(high)), scale),
                                  _mm256_cvtepi32_pd(_mm256_castsi256_si128(low)));
    __m256d second = _mm256_add_pd(_mm256_mul_pd(_mm256_cvtepi32_pd(_mm256_extracti128_si256(high, 1)), scale),
                                   _mm256_cvtepi32_pd(_mm256_extracti128_si256(low, 1)));
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), first));
    _mm256_storeu_pd(sums + 4, _mm256_add_pd(_mm256_loadu_pd(sums + 4), second));
}

INLINE __m256i repeat_weights(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, sizeof pair);
    return _mm256_set1_epi32(pair);
}

/* `vectors` of 8 sums each, from element h on. */
INLINE void add_columns(const int16_t *high, const int16_t *low, const int16_t *tile, int64_t num_keys, int64_t size,
                        double *sums, int64_t h, int vectors) {
    __m256i high_sums[4], low_sums[4];
    for (int v = 0; v < vectors; v++) high_sums[v] = low_sums[v] = _mm256_setzero_si256();
    for (int64_t j = 0; j < num_keys; j += 2) {
        __m256i high_pair = repeat_weights(high + j), low_pair = repeat_weights(low + j);
        for (int v = 0; v < vectors; v++) {
            __m256i values = load16(tile + j * size + (h + 8 * v) * 2);
            high_sums[v] = _mm256_add_epi32(high_sums[v], _mm256_madd_epi16(high_pair, values));
            low_sums[v] = _mm256_add_epi32(low_sums[v], _mm256_madd_epi16(low_pair, values));
        }
    }
    for (int v = 0; v < vectors; v++) add_sums(sums + h + 8 * v, high_sums[v], low_sums[v]);
}

/* Both parts of the weights times a tile of values, added to the sums. */
INLINE void add_tile(const int16_t *high, const int16_t *low, const int16_t *tile, int64_t num_keys, int64_t size,
                     double *sums) {
    int64_t h = 0;
    for (; h + 32 <= size; h += 32) add_columns(high, low, tile, num_keys, size, sums, h, 4);
    for (; h < size; h += 16) add_columns(high, low, tile, num_keys, size, sums, h, 2);
}

#else

INLINE void dot_keys(const int16_t *high, const int16_t *low, const int16_t *const keys[KEYS_AT_ONCE], int64_t size,
                     float *out) {
    for (int i = 0; i < KEYS_AT_ONCE; i++) {
        double sum = 0;
        for (int64_t h = 0; h < size; h += DOT_ELEMENTS)
            sum += dot_elements(high + h, low + h, keys[i] + h, size - h < DOT_ELEMENTS ? size - h : DOT_ELEMENTS);
        out[i] = (float)sum;
    }
}

INLINE void add_tile(const int16_t *high, const int16_t *low, const int16_t *tile, int64_t num_keys, int64_t size,
                     double *sums) {
    for (int64_t h = 0; h < size; h++) {
        int32_t high_sum = 0, low_sum = 0;
        for (int64_t j = 0; j < num_keys; j += 2) {
            const int16_t *pair = tile + j * size + 2 * h;
            high_sum += high[j] * pair[0] + high[j + 1] * pair[1];
            low_sum += low[j] * pair[0] + low[j + 1] * pair[1];
        }
        sums[h] += high_sum * HIGH_PART + low_sum;
    }
}

#endif

/* The values of each two keys element by element; what is missing of the last pair and beyond the head is zero. */
INLINE void interleave(const int16_t *const *values, int64_t num_keys, int64_t size, int64_t padded_size, int16_t *tile) {
    for (int64_t j = 0; j < num_keys; j += 2) {
        const int16_t *first = values[j], *second = values[j + 1 < num_keys ? j + 1 : j];
        int16_t has_second = j + 1 < num_keys ? -1 : 0, *restrict pairs = tile + j * padded_size;
        for (int64_t h = 0; h < size; h++) {
            pairs[2 * h] = first[h];
            pairs[2 * h + 1] = second[h] & has_second;
        }
        for (int64_t h = 2 * size; h < 2 * padded_size; h++) pairs[h] = 0;
    }
}

#endif
