/* Products with weights of four bits on each kind of processor: two vectors of outputs side by side, four inputs at a time. The
   low half of a byte is the weight for an output of the first vector, the high half the weight for one of the second.

   With AVX2 a block's sums fit 16 bits: each of its 8 additions adds two products, at most 2 * 15 * 127. */
#ifndef PAGODA_FOUR_BIT_PRODUCTS_H
#define PAGODA_FOUR_BIT_PRODUCTS_H

#include "vector.h"

enum { AT_ONCE = 4, VECTORS = 2, PANEL = VECTORS * LANES };

INLINE vector repeat_four(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return repeat_sum(four);
}

#if LANES == 16
enum { ROWS = 6 };
INLINE vector load_packed(const uint8_t *x) { return _mm512_loadu_si512(x); }
INLINE vector low_halves(vector packed) { return _mm512_and_si512(packed, _mm512_set1_epi8(15)); }
INLINE vector high_halves(vector packed) { return low_halves(_mm512_srli_epi16(packed, 4)); }
/* Inline assembly instead of the intrinsic, for the reason given in products.h. */
INLINE vector add_products(vector sums, vector x, vector weights) {
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(x));
    return sums;
}
INLINE vector first_products(vector x, vector weights) { return add_products(zeros(), x, weights); }
INLINE vector whole_sums(vector sums) { return sums; }

#elif defined(__AVX2__)
/* 5 and 6 rows are no faster, and leave a remainder more often. */
enum { ROWS = 4 };
INLINE vector load_packed(const uint8_t *x) { return _mm256_loadu_si256((const void *)x); }
INLINE vector low_halves(vector packed) { return _mm256_and_si256(packed, _mm256_set1_epi8(15)); }
INLINE vector high_halves(vector packed) { return low_halves(_mm256_srli_epi16(packed, 4)); }
/* Inline assembly instead of the intrinsic, for the reason given in products.h. */
INLINE vector add_products(vector sums, vector x, vector weights) {
    vector products = _mm256_maddubs_epi16(weights, x);
    __asm__ volatile("vpaddw %1, %0, %0" : "+x"(sums) : "x"(products));
    return sums;
}
INLINE vector first_products(vector x, vector weights) {
    vector products = _mm256_maddubs_epi16(weights, x);
    __asm__ volatile("" : "+x"(products));
    return products;
}
INLINE vector whole_sums(vector sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

#else
enum { ROWS = 4 };
INLINE vector load_packed(const uint8_t *x) {
    vector packed;
    memcpy(packed.lane, x, sizeof packed.lane);
    return packed;
}
INLINE vector low_halves(vector packed) {
    for (int i = 0; i < LANES; i++) packed.lane[i] &= 0x0f0f0f0f;
    return packed;
}
INLINE vector high_halves(vector packed) {
    for (int i = 0; i < LANES; i++) packed.lane[i] = packed.lane[i] >> 4 & 0x0f0f0f0f;
    return packed;
}
INLINE vector add_products(vector sums, vector x, vector weights) {
    for (int byte = 0; byte < AT_ONCE; byte++)
        for (int i = 0; i < LANES; i++)
            sums.lane[i] += (int8_t)(x.lane[i] >> 8 * byte) * (weights.lane[i] >> 8 * byte & 15);
    return sums;
}
INLINE vector first_products(vector x, vector weights) { return add_products(zeros(), x, weights); }
INLINE vector whole_sums(vector sums) { return sums; }
#endif

#endif
