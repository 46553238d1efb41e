/* The Hadamard rotations of hadamard_int8.py, of 64 numbers, and of head_rotation.py. */
#ifndef PAGODA_HADAMARD_INT8_H
#define PAGODA_HADAMARD_INT8_H

#include "arithmetic.h"

enum { BLOCK = 64, EIGHT = 8 };

static const float BLOCK_INVERSE_LEVELS = 1.0f / 127;

#if defined(__AVX2__)

#include <immintrin.h>

/* Return x + y, with the sign of y's number i changed where bit i of `negative` is set. */
INLINE __m256 add_signed(__m256 x, __m256 y, int negative) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i chosen = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(negative), bits), bits);
    __m256i signs = _mm256_slli_epi32(chosen, 31);
    return _mm256_add_ps(x, _mm256_xor_ps(y, _mm256_castsi256_ps(signs)));
}

/* Compute sums and differences at distances 1, 2 and 4 within eight numbers. */
INLINE void rotate_eight(float *numbers) {
    __m256 x = _mm256_loadu_ps(numbers);
    x = add_signed(_mm256_moveldup_ps(x), _mm256_movehdup_ps(x), 0xaa);
    x = add_signed(_mm256_permute_ps(x, 0x44), _mm256_permute_ps(x, 0xee), 0xcc);
    x = add_signed(_mm256_permute2f128_ps(x, x, 0x00), _mm256_permute2f128_ps(x, x, 0x11), 0xf0);
    _mm256_storeu_ps(numbers, x);
}

#else

INLINE void rotate_eight(float *x) {
    for (int distance = 1; distance < EIGHT; distance *= 2) {
        float rotated[EIGHT];
        for (int i = 0; i < EIGHT; i++)
            rotated[i] = i & distance ? x[i - distance] - x[i] : x[i] + x[i + distance];
        memcpy(x, rotated, sizeof rotated);
    }
}

#endif

/* Rotate `size` numbers, a power of two. */
INLINE void rotate_numbers(float *x, int size) {
    int distance = 1;
    if (size >= EIGHT) {
        for (int i = 0; i < size; i += EIGHT) rotate_eight(x + i);
        distance = EIGHT;
    }
    for (; distance < size; distance *= 2)
        for (int start = 0; start < size; start += 2 * distance) {
            float *restrict near = x + start, *restrict far = near + distance;
            for (int i = 0; i < distance; i++) {
                float first = near[i], second = far[i];
                near[i] = first + second;
                far[i] = first - second;
            }
        }
}

INLINE void rotate_block(float *x) { rotate_numbers(x, BLOCK); }

/* Rotate a head into y, block by block; the rest of a head in smaller powers of two. With `divides` each block is divided by its
   size. */
INLINE void rotate_head(const float *x, int64_t size, int divides, float *y) {
    int64_t start = 0;
    memcpy(y, x, size * sizeof(float));
    for (; start + BLOCK <= size; start += BLOCK) rotate_block(y + start);
    for (int length = BLOCK / 2; start < size; length /= 2)
        if (length <= size - start) {
            rotate_numbers(y + start, length);
            start += length;
        }
    if (!divides) return;
    int64_t whole = size / BLOCK * BLOCK;
    for (int64_t i = 0; i < whole; i++) y[i] *= 1.0f / BLOCK;
    for (int length = BLOCK / 2; whole < size; length /= 2)
        if (length <= size - whole) {
            for (int i = 0; i < length; i++) y[whole + i] *= 1.0f / length;
            whole += length;
        }
}

#endif
