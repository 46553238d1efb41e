/* How a linear multiplies on each kind of processor: PANEL outputs side by side, a few inputs at a time, their weights in the order
   in which they are read.

   With VNNI four products of bytes in one instruction, unsigned ones with signed ones: so weights are stored 128 higher, and a
   sum starts at minus what that adds. Else pairs of 16-bit numbers, the weights widened on the way. The sums are the same. */
#ifndef PAGODA_PRODUCTS_H
#define PAGODA_PRODUCTS_H

#include "vector.h"

#if LANES == 16
/* 6 rows of 2 vectors: 12 sums and as many totals of blocks, of 32 registers. */
enum { ROWS = 6, AT_ONCE = 4, WEIGHT_OFFSET = 128 };
typedef int8_t activation;
typedef vector weights;
INLINE weights load_weights(const uint8_t *x) { return _mm512_loadu_si512(x); }
INLINE vector repeat(const activation *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}
/* The instruction itself: from the intrinsic GCC 12 makes code that keeps sums in memory. */
INLINE vector add_products(vector sums, vector x, weights w) {
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
    return sums;
}
#else
/* More than 4 rows of 2 vectors leave AVX2 no registers. */
enum { ROWS = 4, AT_ONCE = 2, WEIGHT_OFFSET = 0 };
typedef int16_t activation;
typedef vector weights;
INLINE weights load_weights(const uint8_t *x) { return load_widened((const int8_t *)x); }
INLINE vector repeat(const activation *x) { return repeat_pair(x); }
#ifdef __AVX2__
/* The addition is the instruction itself and stays in its place: GCC 12 would multiply for all rows first and keep a sum in memory. */
INLINE vector add_products(vector sums, vector x, weights w) {
    vector products = _mm256_madd_epi16(x, w);
    __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sums) : "x"(products));
    return sums;
}
#else
INLINE vector add_products(vector sums, vector x, weights w) { return add_pairs(sums, x, w); }
#endif
#endif

enum { VECTORS = 2, PANEL = VECTORS * LANES };

/* Where the weight of an input for an output of the panel lies, within a block of inputs. */
INLINE int64_t place_in_panel(int64_t out, int64_t in) {
    return in / AT_ONCE * AT_ONCE * PANEL + out * AT_ONCE + in % AT_ONCE;
}

#endif
