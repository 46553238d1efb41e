/* The two sums of attention, over 16-bit integers: queries times keys, and weights times values.

   Both multiply rows of pairs with a tile. For each pair (two elements of a head, or two keys) a tile has the pairs of
   TILE_WIDTH keys, or elements. So each sum stays in its lane, and a tile is made once for all rows. A sum of SUM_LENGTH
   elements or keys fits 32 bits; integer_attention.py keeps the terms small enough.

   Keys and values are rows of int16 or int8, `bytes` each, read in pieces of PIECE elements. The last piece may reach beyond the
   end of a head; those elements are multiplied by zeros or give sums that are not used. */
#ifndef PAGODA_ATTENTION_SUMS_H
#define PAGODA_ATTENTION_SUMS_H

#include "arithmetic.h"
#include "vector.h"

enum { SUM_LENGTH = 64, TILE_WIDTH = 16, PIECE = 16, ROWS_AT_ONCE = 4, TILE_VECTORS = TILE_WIDTH / LANES };

#if defined(__AVX2__)

INLINE __m256i load_piece(const char *row, int64_t element, int bytes) {
    return bytes == 1 ? _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(row + element)))
                      : _mm256_loadu_si256((const void *)(row + 2 * element));
}

INLINE void store_piece(int16_t *tile, __m256i x) { _mm256_storeu_si256((void *)tile, x); }

/* Transpose four rows of four pairs, in each half of the vectors. */
INLINE void transpose_halves(const __m256i rows[4], __m256i pairs[4]) {
    __m256i low01 = _mm256_unpacklo_epi32(rows[0], rows[1]), high01 = _mm256_unpackhi_epi32(rows[0], rows[1]);
    __m256i low23 = _mm256_unpacklo_epi32(rows[2], rows[3]), high23 = _mm256_unpackhi_epi32(rows[2], rows[3]);
    pairs[0] = _mm256_unpacklo_epi64(low01, low23), pairs[1] = _mm256_unpackhi_epi64(low01, low23);
    pairs[2] = _mm256_unpacklo_epi64(high01, high23), pairs[3] = _mm256_unpackhi_epi64(high01, high23);
}

/* Put PIECE elements, from h on, of TILE_WIDTH keys into PIECE / 2 rows of a tile. */
INLINE void place_keys(const char *const *keys, int64_t h, int bytes, int16_t *tile) {
    for (int i = 0; i < TILE_WIDTH; i += 8) {
        __m256i rows[4], pairs[4], later_rows[4], later_pairs[4];
        for (int k = 0; k < 4; k++) {
            __m256i one = load_piece(keys[i + k], h, bytes), other = load_piece(keys[i + k + 4], h, bytes);
            rows[k] = _mm256_permute2x128_si256(one, other, 0x20);
            later_rows[k] = _mm256_permute2x128_si256(one, other, 0x31);
        }
        transpose_halves(rows, pairs);
        transpose_halves(later_rows, later_pairs);
        for (int k = 0; k < 4; k++) {
            store_piece(tile + (k * TILE_WIDTH + i) * 2, pairs[k]);
            store_piece(tile + ((k + 4) * TILE_WIDTH + i) * 2, later_pairs[k]);
        }
    }
}

/* Put TILE_WIDTH elements, from h on, of the values of two keys into one row of a tile. */
INLINE void place_values(const char *one, const char *next, int64_t h, int bytes, int16_t *tile) {
    __m256i a = load_piece(one, h, bytes), b = load_piece(next, h, bytes);
    __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
    store_piece(tile, _mm256_permute2x128_si256(low, high, 0x20));
    store_piece(tile + PIECE, _mm256_permute2x128_si256(low, high, 0x31));
}

#else

INLINE int16_t element_of(const char *row, int64_t element, int bytes) {
    return bytes == 1 ? ((const int8_t *)row)[element] : ((const int16_t *)row)[element];
}

INLINE void place_keys(const char *const *keys, int64_t h, int bytes, int16_t *tile) {
    for (int i = 0; i < TILE_WIDTH; i++)
        for (int e = 0; e < PIECE; e++)
            tile[(e / 2 * TILE_WIDTH + i) * 2 + e % 2] = element_of(keys[i], h + e, bytes);
}

INLINE void place_values(const char *one, const char *next, int64_t h, int bytes, int16_t *tile) {
    for (int e = 0; e < TILE_WIDTH; e++) {
        tile[2 * e] = element_of(one, h + e, bytes);
        tile[2 * e + 1] = element_of(next, h + e, bytes);
    }
}

#endif

/* Multiply num_rows rows x, `stride` apart, with the tile. */
INLINE void multiply_rows(const int16_t *x, int64_t stride, const int16_t *tile, int64_t num_pairs, int num_rows,
                          int32_t sums[ROWS_AT_ONCE][TILE_WIDTH]) {
    vector totals[ROWS_AT_ONCE][TILE_VECTORS];
    for (int row = 0; row < num_rows; row++)
        for (int v = 0; v < TILE_VECTORS; v++) totals[row][v] = zeros();
    for (int64_t i = 0; i < num_pairs; i++) {
        vector pairs[TILE_VECTORS];
        for (int v = 0; v < TILE_VECTORS; v++) pairs[v] = load_pairs(tile + (i * TILE_WIDTH + v * LANES) * 2);
        for (int row = 0; row < num_rows; row++) {
            vector pair = repeat_pair(x + row * stride + 2 * i);
            for (int v = 0; v < TILE_VECTORS; v++) totals[row][v] = add_pairs(totals[row][v], pair, pairs[v]);
        }
    }
    for (int row = 0; row < num_rows; row++)
        for (int v = 0; v < TILE_VECTORS; v++) store_sums(&sums[row][v * LANES], totals[row][v]);
}

/* The number of rows, at most ROWS_AT_ONCE, is a constant in each call, so that their sums stay in registers. */
static void multiply_tile(const int16_t *x, int64_t stride, const int16_t *tile, int64_t num_pairs, int64_t num_rows,
                          int32_t sums[ROWS_AT_ONCE][TILE_WIDTH]) {
    switch (num_rows) {
        case 1: multiply_rows(x, stride, tile, num_pairs, 1, sums); break;
        case 2: multiply_rows(x, stride, tile, num_pairs, 2, sums); break;
        case 3: multiply_rows(x, stride, tile, num_pairs, 3, sums); break;
        default: multiply_rows(x, stride, tile, num_pairs, ROWS_AT_ONCE, sums);
    }
}

#endif
