/* Products of a linear on each kind of processor: PANEL outputs side by side, a few inputs at a time, with the weights in the
   order in which they are read.

   VNNI multiplies four unsigned bytes with four signed ones in one instruction. So weights are stored plus 128, and each sum
   starts at minus the amount that this adds. Without VNNI pairs of 16-bit numbers are multiplied, and weights are widened when
   they are loaded. The sums are the same. */
#ifndef PAGODA_PRODUCTS_H
#define PAGODA_PRODUCTS_H

#include "vector.h"

#if LANES == 16
/* 6 rows of 2 vectors have 12 sums and 12 totals of blocks, for which the 32 registers suffice. */
enum { ROWS = 6, AT_ONCE = 4, WEIGHT_OFFSET = 128 };
typedef int8_t activation;
typedef vector weights;
INLINE weights load_weights(const uint8_t *x) { return _mm512_loadu_si512(x); }
INLINE vector repeat(const activation *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}
/* This is inline assembly because GCC 12 keeps sums in memory if the intrinsic is used. */
INLINE vector add_products(vector sums, vector x, weights w) {
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
    return sums;
}
#else
/* AVX2 has too few registers for more than 4 rows of 2 vectors. */
enum { ROWS = 4, AT_ONCE = 2, WEIGHT_OFFSET = 0 };
typedef int16_t activation;
typedef vector weights;
INLINE weights load_weights(const uint8_t *x) { return load_widened((const int8_t *)x); }
INLINE vector repeat(const activation *x) { return repeat_pair(x); }
#ifdef __AVX2__
/* The addition is inline assembly, so that it stays in place: GCC 12 would multiply for all rows first and keep a sum in
   memory. */
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

/* Return the place, within a block of inputs, of the weight of an input for an output of the panel. */
INLINE int64_t place_in_panel(int64_t out, int64_t in) {
    return in / AT_ONCE * AT_ONCE * PANEL + out * AT_ONCE + in % AT_ONCE;
}

#endif
