/* Conversion of a row's scores into integer weights, as in integer_attention.py.

   NaN and infinity make the scale NaN or infinite, so the integers of such a row do not matter. */
#ifndef PAGODA_ATTENTION_WEIGHTS_H
#define PAGODA_ATTENTION_WEIGHTS_H

#include "arithmetic.h"

enum { FAINTEST_BLOCK = 11, PROBABILITY_BITS = 24, PROBABILITIES_IN_32_BITS = 128 };

/* Return the largest of n scores. Floats compare like their bits once the bits of negative ones are inverted. */
static float largest_score(const float *scores, int64_t n) {
    int32_t largest = INT32_MIN;
    for (int64_t j = 0; j < n; j++) {
        int32_t bits = bits_of(scores[j]), ordered = bits ^ ((bits >> 31) & 0x7fffffff);
        largest = ordered > largest ? ordered : largest;
    }
    return float_of(largest ^ ((largest >> 31) & 0x7fffffff));
}

/* Replace scores (exponents of 2) by probabilities times the values' scales; return the sum of the rounded probabilities. */
static int64_t weigh(float *restrict scores, const float *value_scales, int64_t n, float largest) {
    int64_t total = 0;
    for (int64_t first = 0; first < n; first += PROBABILITIES_IN_32_BITS) {
        int64_t end = n - first < PROBABILITIES_IN_32_BITS ? n : first + PROBABILITIES_IN_32_BITS;
        uint32_t some = 0;
        for (int64_t j = first; j < end; j++) {
            float probability = exp2_below_one(scores[j] - largest);
            some += (uint32_t)(int32_t)__builtin_rintf(probability * (1 << PROBABILITY_BITS));
            scores[j] = probability * value_scales[j];
        }
        total += some;
    }
    return total;
}

/* Return the largest power of two that is not above the largest of n numbers, all >= 0; infinity if one is infinite or NaN. */
static float largest_power(const float *x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t j = 0; j < n; j++) {
        uint32_t bits = (uint32_t)bits_of(x[j]);
        largest = bits > largest ? bits : largest;
    }
    return float_of((int32_t)(largest & 0x7f800000));
}

static void round_weights(const float *weights, int16_t *restrict integers, int64_t n, float factor) {
    for (int64_t j = 0; j < n; j++) integers[j] = (int16_t)(int32_t)__builtin_rintf(weights[j] * factor);
}

#endif
