/* The blocks of GGML's types as files have them, each an output's span: its integers, unsigned, and its factors.
   worker/weights/dequantize.py describes the blocks. */
#ifndef PAGODA_GROUPED_FILES_H
#define PAGODA_GROUPED_FILES_H

#include "grouped_factors.h"

/* Split bytes into fields of `bits` bits, or'ed into integers after a shift. Each group of bytes holds 8 / bits runs of integers:
   the first run in the lowest bits of all bytes, the next one above it. */
INLINE void read_fields(const uint8_t *packed, int bytes, int bits, int group, int shift, uint8_t *integers) {
    for (int start = 0; start < bytes; start += group)
        for (int run = 0; run < 8 / bits; run++)
            for (int i = 0; i < group; i++)
                integers[start * 8 / bits + run * group + i] |= (packed[start + i] >> run * bits & ((1 << bits) - 1)) << shift;
}

INLINE uint16_t read_half(const uint8_t *x) { return (uint16_t)(x[0] | x[1] << 8); }

INLINE void read_nibbles(const uint8_t *packed, int bytes, int group, uint8_t *integers) {
    memset(integers, 0, 2 * bytes);
    read_fields(packed, bytes, 4, group, 0, integers);
}

INLINE void read_q4_0(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file);
    read_nibbles(file + 2, 16, 16, integers);
}

INLINE void read_q4_1(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file), factors->dmin = read_half(file + 2);
    read_nibbles(file + 4, 16, 16, integers);
}

INLINE void read_q5_0(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file);
    read_nibbles(file + 6, 16, 16, integers);
    read_fields(file + 2, 4, 1, 1, 4, integers);
}

INLINE void read_q5_1(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file), factors->dmin = read_half(file + 2);
    read_nibbles(file + 8, 16, 16, integers);
    read_fields(file + 4, 4, 1, 1, 4, integers);
}

INLINE void read_q8_0(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file);
    for (int i = 0; i < BLOCK; i++) integers[i] = file[2 + i] ^ 128;
}

INLINE void read_iq4_nl(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    read_q4_0(file, integers, factors);
}

/* Read eight scales and eight minima of six bits: the first four of each in the lower bits of a byte, the others in two parts. */
INLINE void read_scales_and_minima(const uint8_t *file, struct file_factors *factors) {
    for (int g = 0; g < 4; g++) {
        factors->scales[g] = file[g] & 63, factors->minima[g] = file[4 + g] & 63;
        factors->scales[4 + g] = (file[8 + g] & 15) | (file[g] >> 2 & 48);
        factors->minima[4 + g] = file[8 + g] >> 4 | (file[4 + g] >> 2 & 48);
    }
}

INLINE void read_q4_k(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file), factors->dmin = read_half(file + 2);
    read_scales_and_minima(file + 4, factors);
    read_nibbles(file + 16, 128, 32, integers);
}

INLINE void read_q5_k(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file), factors->dmin = read_half(file + 2);
    read_scales_and_minima(file + 4, factors);
    read_nibbles(file + 48, 128, 32, integers);
    read_fields(file + 16, 32, 1, 32, 4, integers);
}

INLINE void read_q6_k(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file + 208);
    memcpy(factors->scales, file + 192, 16);
    read_nibbles(file, 128, 64, integers);
    read_fields(file + 128, 64, 2, 32, 4, integers);
}

INLINE void read_q2_k(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file + 80), factors->dmin = read_half(file + 82);
    for (int g = 0; g < 16; g++) factors->scales[g] = file[g] & 15, factors->minima[g] = file[g] >> 4;
    memset(integers, 0, LONGEST_SPAN);
    read_fields(file + 16, 64, 2, 32, 0, integers);
}

INLINE void read_q3_k(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file + 108);
    memset(factors->scales, 0, sizeof factors->scales);
    read_fields(file + 96, 8, 4, 8, 0, factors->scales);
    read_fields(file + 104, 4, 2, 4, 4, factors->scales);
    memset(integers, 0, LONGEST_SPAN);
    read_fields(file + 32, 64, 2, 32, 0, integers);
    read_fields(file, 32, 1, 32, 2, integers);
}

INLINE void read_iq4_xs(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    factors->d = read_half(file);
    memset(factors->scales, 0, sizeof factors->scales);
    read_fields(file + 4, 4, 4, 1, 0, factors->scales);
    read_fields(file + 2, 2, 2, 1, 4, factors->scales);
    for (int g = 0; g < 8; g++) factors->scales[g] = (uint8_t)(factors->scales[g] - 32);
    read_nibbles(file + 8, 128, 16, integers);
}

/* Weights that panels.py makes from tensors: a scale, in 16 or 32 bits, the integer that means zero, then bytes. */
INLINE void read_half_and_zero(const uint8_t *file, uint8_t *integers, struct file_factors *factors, int span) {
    factors->d = read_half(file), factors->zero = (int8_t)file[2];
    memcpy(integers, file + 3, span);
}
INLINE void read_half_zero_32(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    read_half_and_zero(file, integers, factors, 32);
}
INLINE void read_half_zero_64(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    read_half_and_zero(file, integers, factors, 64);
}
INLINE void read_half_zero_128(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    read_half_and_zero(file, integers, factors, 128);
}
INLINE void read_float_zero_32(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    memcpy(&factors->scale, file, sizeof factors->scale);
    factors->zero = (int8_t)file[4];
    memcpy(integers, file + 5, BLOCK);
}

/* Others that panels.py makes: a scale and a minimum in 32 bits, then bytes. */
INLINE void read_unpacked(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    memcpy(&factors->scale, file, sizeof factors->scale);
    memcpy(&factors->minimum, file + 4, sizeof factors->minimum);
    memcpy(integers, file + 8, BLOCK);
}

INLINE void read_unpacked_signed(const uint8_t *file, uint8_t *integers, struct file_factors *factors) {
    read_unpacked(file, integers, factors);
    for (int i = 0; i < BLOCK; i++) integers[i] ^= 128;
}

#endif
