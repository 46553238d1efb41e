/* Four activations times four weights, in each lane another output's: how a linear multiplies on each kind of processor, and how
   its weights lie in memory for that.

   add_quads(sums, x, weights) adds their product to the sums, and what follows from x alone or from the weights alone: the
   excess. What it adds for weights of zero is the excess of x, what it adds for activations of zero that of the weights; a sum
   that starts at minus both ends at the product. All is modulo 2^32, so nothing but the product itself must fit. */
#ifndef PAGODA_QUADS_H
#define PAGODA_QUADS_H

#include "arithmetic.h"
#include "vector.h"

#if LANES == 16
/* Unsigned bytes times signed ones, four products in one instruction: weights are stored 128 higher, activations as two parts.
   16-bit products are no faster, and weights would be widened first. */
typedef int8_t activation;
typedef vector quad;
enum { ROWS = 8, VECTORS = 2, PANEL = VECTORS * LANES, FEWEST_PARTS = 2 };

INLINE int64_t place_in_panel(int64_t out, int64_t in) { return in / 4 * 4 * PANEL + out * 4 + in % 4; }
INLINE int8_t stored_weight(int8_t weight) { return (int8_t)(weight ^ -128); }
INLINE quad zero_weights(void) { return _mm512_set1_epi8(-128); }
INLINE quad load_weights(const int8_t *group, int v) { return _mm512_loadu_si512(group + v * 4 * LANES); }
INLINE quad zero_activations(void) { return zeros(); }
INLINE quad repeat_activations(const activation *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

/* The instruction itself: with the intrinsic GCC 12 loads for all rows first, and has no registers left for the sums. */
INLINE vector add_quads(vector sums, quad x, quad weights) {
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(x));
    return sums;
}

#else
/* Pairs of 16-bit numbers. More sums than 4 rows by 2 vectors leave AVX2 no registers for what is added. */
typedef int16_t activation;
typedef struct { vector first, second; } quad;
enum { ROWS = 4, VECTORS = 2, PANEL = VECTORS * LANES, FEWEST_PARTS = 1 };

INLINE int64_t place_in_panel(int64_t out, int64_t in) { return in / 2 * 2 * PANEL + out * 2 + in % 2; }
INLINE int8_t stored_weight(int8_t weight) { return weight; }
INLINE quad zero_weights(void) { return (quad){zeros(), zeros()}; }
INLINE quad load_weights(const int8_t *group, int v) {
    return (quad){load_widened(group + v * 2 * LANES), load_widened(group + (VECTORS + v) * 2 * LANES)};
}
INLINE quad zero_activations(void) { return (quad){zeros(), zeros()}; }
INLINE quad repeat_activations(const activation *x) { return (quad){repeat_pair(x), repeat_pair(x + 2)}; }

#ifdef __AVX2__
/* (x0 + w2) (x2 + w0) = x0 w0 + x2 w2 + x0 x2 + w2 w0 (Winograd 1968), so a multiplication becomes an addition. Only two of Zen 3's
   four vector ports multiply, and additions get in their way: 74 G products/s a core instead of 67 in a model's linears, 128 rows.
   The last addition is the instruction itself, or GCC 12 keeps some sums in memory. */
INLINE vector add_quads(vector sums, quad x, quad weights) {
    vector first = _mm256_add_epi16(x.first, weights.second), second = _mm256_add_epi16(x.second, weights.first);
    vector products = _mm256_madd_epi16(first, second);
    __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sums) : "x"(products));
    return sums;
}
#else
INLINE vector add_quads(vector sums, quad x, quad weights) {
    return add_pairs(add_pairs(sums, x.first, weights.first), x.second, weights.second);
}
#endif
#endif

#endif
