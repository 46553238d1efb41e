/* Vectors of 32-bit sums and their operations: adding products of 16-bit pairs, widening bytes, and converting sums to floats,
   which are scaled and added one IEEE operation at a time.

   There are versions for AVX-512 with VNNI, for AVX2, and for one lane at a time. All are exact as long as each sum fits 32 bits,
   so they give the same integers. */
#ifndef PAGODA_VECTOR_H
#define PAGODA_VECTOR_H

#include <stdint.h>
#include <string.h>

#include "arithmetic.h"

#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define LANES 16
typedef __m512i vector;
INLINE vector zeros(void) { return _mm512_setzero_si512(); }
INLINE vector add_pairs(vector sums, vector a, vector b) { return _mm512_dpwssd_epi32(sums, a, b); }
INLINE vector load_widened(const int8_t *x) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)x)); }
INLINE vector load_pairs(const int16_t *x) { return _mm512_loadu_si512(x); }
INLINE vector repeat_pair(const int16_t *x) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_set1_epi32(pair);
}
INLINE void store_sums(int32_t *out, vector sums) { _mm512_storeu_si512(out, sums); }
INLINE vector repeat_sum(int32_t x) { return _mm512_set1_epi32(x); }

#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
typedef __m256i vector;
INLINE vector zeros(void) { return _mm256_setzero_si256(); }
INLINE vector add_pairs(vector sums, vector a, vector b) { return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)); }
INLINE vector load_widened(const int8_t *x) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)x)); }
INLINE vector load_pairs(const int16_t *x) { return _mm256_loadu_si256((const void *)x); }
INLINE vector repeat_pair(const int16_t *x) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return _mm256_set1_epi32(pair);
}
INLINE void store_sums(int32_t *out, vector sums) { _mm256_storeu_si256((void *)out, sums); }
INLINE vector repeat_sum(int32_t x) { return _mm256_set1_epi32(x); }

#else
#define LANES 8
typedef struct { int32_t lane[LANES]; } vector; /* sums, or pairs held as their two halves */
INLINE int32_t pair_of(int16_t low, int16_t high) { return (int32_t)((uint32_t)(uint16_t)high << 16 | (uint16_t)low); }
INLINE vector zeros(void) { return (vector){{0}}; }
INLINE vector add_pairs(vector sums, vector a, vector b) {
    for (int i = 0; i < LANES; i++)
        sums.lane[i] += (int16_t)a.lane[i] * (int16_t)b.lane[i] + (a.lane[i] >> 16) * (b.lane[i] >> 16);
    return sums;
}
INLINE vector load_widened(const int8_t *x) {
    vector pairs;
    for (int i = 0; i < LANES; i++) pairs.lane[i] = pair_of(x[2 * i], x[2 * i + 1]);
    return pairs;
}
INLINE vector load_pairs(const int16_t *x) {
    vector pairs;
    for (int i = 0; i < LANES; i++) pairs.lane[i] = pair_of(x[2 * i], x[2 * i + 1]);
    return pairs;
}
INLINE vector repeat_pair(const int16_t *x) {
    vector pairs;
    for (int i = 0; i < LANES; i++) pairs.lane[i] = pair_of(x[0], x[1]);
    return pairs;
}
INLINE void store_sums(int32_t *out, vector sums) { memcpy(out, sums.lane, sizeof sums.lane); }
INLINE vector repeat_sum(int32_t x) {
    vector sums;
    for (int i = 0; i < LANES; i++) sums.lane[i] = x;
    return sums;
}
#endif

/* Floats, one for each lane. */
typedef float floats __attribute__((vector_size(4 * LANES)));

INLINE floats to_floats(vector sums) {
    int32_t __attribute__((vector_size(4 * LANES))) lanes;
    memcpy(&lanes, &sums, sizeof lanes);
    return __builtin_convertvector(lanes, floats);
}
INLINE floats load_floats(const float *x) {
    floats lanes;
    memcpy(&lanes, x, sizeof lanes);
    return lanes;
}
/* Load numbers of 16 bits. */
INLINE floats load_half_floats(const uint16_t *x) {
#if LANES == 16
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)x));
#elif defined(__AVX2__) && defined(__F16C__)
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const void *)x));
#else
    floats lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = half_to_float(x[i]);
    return lanes;
#endif
}
INLINE void store_floats(float *out, floats lanes) { memcpy(out, &lanes, sizeof lanes); }
INLINE void add_scaled_sums(float *totals, vector sums, const float *scales, float scale) {
    store_floats(totals, load_floats(totals) + to_floats(sums) * load_floats(scales) * scale);
}

#endif
