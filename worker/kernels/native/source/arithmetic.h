/* The arithmetic of fixed_point.py: rounding rows to integers, 2^x, tanh. The IEEE operations are the same, in the same order.

   Each float is computed independently of the others, so the compiler may use vectors. Largest values are found by comparing the
   floats' bits, where NaN is larger than every number. */
#ifndef PAGODA_ARITHMETIC_H
#define PAGODA_ARITHMETIC_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define APART __attribute__((noinline))

static const float TINY = 1e-20f;
static const float LOG2_E = 1.4426950408889634f;
static const float TWO_LOG2_E = (float)(2 * 1.4426950408889634);
static const float EXP2_COEFFICIENTS[5] = {
    (float)0.001326472731307149, (float)0.009671512991189957, (float)0.05550733581185341,
    (float)0.24022242426872253,  (float)0.6931470036506653,
};

INLINE int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float float_of(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Convert a number of 16 bits. Its bits, moved to their places in a float, make a number whose exponent is 112 too small. */
INLINE float half_to_float(uint16_t half) {
    float magnitude = float_of((half & 0x7fff) << 13) * 0x1p112f;
    if ((half & 0x7c00) == 0x7c00) magnitude = float_of(0x7f800000 | (half & 0x3ff) << 13);
    return float_of(bits_of(magnitude) | (int32_t)((uint32_t)(half & 0x8000) << 16));
}

INLINE int32_t magnitude_bits(float x) { return bits_of(x) & 0x7fffffff; }

/* Return the nearest integer, the even one of two. NaN becomes 0, because its row has a scale of NaN or infinity. */
INLINE int32_t round_to_int(float x) {
    float rounded = __builtin_rintf(x);
    return (int32_t)(rounded == rounded ? rounded : 0.0f);
}

/* Return the largest magnitude of a row, or NaN if the row has one. */
INLINE float row_largest(const float *x, int64_t size) {
    int32_t largest = 0;
    for (int64_t i = 0; i < size; i++) {
        int32_t bits = magnitude_bits(x[i]);
        largest = bits > largest ? bits : largest;
    }
    return float_of(largest);
}

/* Return the scale of a row. `inverse_levels` is 1 / levels, rounded to float32. */
INLINE float row_scale(const float *x, int64_t size, float inverse_levels) {
    float largest = row_largest(x, size);
    return (largest < TINY ? TINY : largest) * inverse_levels;
}

/* Return 2^x for x in [-126, 127]. */
INLINE float exp2_within(float x) {
    float exponent = __builtin_rintf(x);
    x = x - exponent;
    float power = x * EXP2_COEFFICIENTS[0];
    power = (power + EXP2_COEFFICIENTS[1]) * x;
    power = (power + EXP2_COEFFICIENTS[2]) * x;
    power = (power + EXP2_COEFFICIENTS[3]) * x;
    power = (power + EXP2_COEFFICIENTS[4]) * x;
    power = power + 1.0f;
    uint32_t shifted = (uint32_t)round_to_int(exponent) << 23;
    return float_of((int32_t)((uint32_t)bits_of(power) + shifted));
}

INLINE float exp2_clamped(float x) {
    x = x < -126.0f ? -126.0f : x;
    return exp2_within(x > 127.0f ? 127.0f : x);
}

/* Return 2^x for x <= 0, clamped like exp2_clamped. */
INLINE float exp2_below_one(float x) { return exp2_within(x < -126.0f ? -126.0f : x); }

INLINE float sigmoid(float x) { return 1.0f / (exp2_clamped(x * -LOG2_E) + 1.0f); }

INLINE float silu(float x) { return x / (exp2_clamped(x * -LOG2_E) + 1.0f); }

INLINE float tanh_by_exp2(float x) { return -2.0f / (exp2_clamped(x * TWO_LOG2_E) + 1.0f) + 1.0f; }

#endif
