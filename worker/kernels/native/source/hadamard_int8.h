/* The Hadamard rotations of hadamard_int8.py, of 64 numbers, and of head_rotation.py. */
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

/* Rotate a head into y, block by block; the rest of a head in smaller powers of two. With `divides` each block is divided by its
   size. */
INLINE void rotate_head(const float *x, int64_t size, int divides, float *restrict y) {
    memcpy(y, x, size * sizeof(float));
    for (int64_t start = 0, length = BLOCK; start < size; start += length) {
        while (length > size - start) length /= 2;
        float *block = y + start;
        if (length == BLOCK)
            rotate_block(block);
        else
            for (int64_t distance = 1; distance < length; distance *= 2)
                for (int64_t i = 0; i < length; i++)
                    if (!(i & distance)) {
                        float first = block[i], second = block[i + distance];
                        block[i] = first + second;
                        block[i + distance] = first - second;
                    }
        if (divides)
            for (int64_t i = 0; i < length; i++) block[i] *= 1.0f / length;
    }
}

#endif
