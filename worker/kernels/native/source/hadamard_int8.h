/* The format of hadamard_int8.py: 64 numbers, Hadamard-rotated and rounded to 127 levels. */
#ifndef PAGODA_HADAMARD_INT8_H
#define PAGODA_HADAMARD_INT8_H

#include "arithmetic.h"

enum { BLOCK = 64, EIGHT = 8 };

static const float BLOCK_INVERSE_LEVELS = 1.0f / 127;

/* Compute sums and differences at distances 1, 2 and 4 within eight numbers. */
INLINE void rotate_eight(float *x) {
    for (int distance = 1; distance < EIGHT; distance *= 2) {
        float rotated[EIGHT];
        for (int i = 0; i < EIGHT; i++)
            rotated[i] = i & distance ? x[i - distance] - x[i] : x[i] + x[i + distance];
        memcpy(x, rotated, sizeof rotated);
    }
}

INLINE void rotate_block(float *x) {
    for (int i = 0; i < BLOCK; i += EIGHT) rotate_eight(x + i);
    for (int distance = EIGHT; distance < BLOCK; distance *= 2)
        for (int start = 0; start < BLOCK; start += 2 * distance)
            for (int i = start; i < start + distance; i++) {
                float first = x[i], second = x[i + distance];
                x[i] = first + second;
                x[i + distance] = first - second;
            }
}

#endif
