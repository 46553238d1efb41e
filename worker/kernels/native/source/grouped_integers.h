/* The integers of a panel's block: 32 inputs of PANEL outputs, in steps of four inputs. A step has one vector for each half of
   the outputs, with four bytes for each output.

   Integers are stored unsigned. Four bits of each are in nibbles: a vector per step, the low halves of its bytes for the first
   half of the outputs. Higher bits, and those of formats with less than four bits, are in planes: vectors in which a byte has
   one or two bits for each of 8 or 4 steps.

   VNNI multiplies four unsigned bytes with four signed ones and adds the products to a sum of 32 bits. With AVX2, products are
   added in pairs to sums of 16 bits, which are full after some steps (steps_per_sum). Wider integers are made signed there; a
   product of a byte's magnitude with an input that has its sign fits 16 bits in pairs. */
#ifndef PAGODA_GROUPED_INTEGERS_H
#define PAGODA_GROUPED_INTEGERS_H

#include "grouped.h"

enum integers { TWO_BITS, THREE_BITS, FOUR_BITS, FIVE_BITS, SIX_BITS, EIGHT_BITS, TABLE };

enum { AT_ONCE = 4, STEPS = BLOCK / AT_ONCE, VECTOR_BYTES = LANES * AT_ONCE };

/* The values of four-bit indices in IQ4_NL and IQ4_XS. */
#define TABLE_VALUES -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113

INLINE int bits_of_integers(enum integers kind) {
    static const int bits[] = {2, 3, 4, 5, 6, 8, 4};
    return bits[kind];
}
INLINE int64_t block_bytes(enum integers kind) { return 2 * bits_of_integers(kind) * VECTOR_BYTES; }
/* Return where planes of one and of two bits begin. */
INLINE int64_t one_bit_planes(enum integers kind) { return (kind == FIVE_BITS ? 8 : 4) * VECTOR_BYTES; }
INLINE int64_t two_bit_planes(enum integers kind) { return (kind == SIX_BITS ? 8 : 0) * VECTOR_BYTES; }

INLINE vector repeat_four(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return repeat_sum(four);
}

#if LANES == 16
INLINE vector load_bytes(const uint8_t *x) { return _mm512_loadu_si512(x); }
INLINE vector mask_bytes(vector x, int mask) { return _mm512_and_si512(x, _mm512_set1_epi8((char)mask)); }
/* Return joined | (x & mask). */
INLINE vector join_bits(vector joined, vector x, int mask) {
    return _mm512_ternarylogic_epi32(joined, x, _mm512_set1_epi8((char)mask), 0xf8);
}
/* Shift left, or right if `places` is negative; bits that leave a byte may enter another one. */
INLINE vector shift_bits(vector x, int places) {
    return places < 0 ? _mm512_srli_epi16(x, -places) : places ? _mm512_slli_epi16(x, places) : x;
}
#elif defined(__AVX2__)
INLINE vector load_bytes(const uint8_t *x) { return _mm256_loadu_si256((const void *)x); }
INLINE vector mask_bytes(vector x, int mask) { return _mm256_and_si256(x, _mm256_set1_epi8((char)mask)); }
INLINE vector join_bits(vector joined, vector x, int mask) { return _mm256_or_si256(joined, mask_bytes(x, mask)); }
INLINE vector shift_bits(vector x, int places) {
    return places < 0 ? _mm256_srli_epi16(x, -places) : places ? _mm256_slli_epi16(x, places) : x;
}
#else
INLINE vector load_bytes(const uint8_t *x) {
    vector packed;
    memcpy(packed.lane, x, sizeof packed.lane);
    return packed;
}
INLINE vector mask_bytes(vector x, int mask) {
    for (int i = 0; i < LANES; i++) x.lane[i] &= mask * 0x01010101u;
    return x;
}
INLINE vector join_bits(vector joined, vector x, int mask) {
    for (int i = 0; i < LANES; i++) joined.lane[i] |= x.lane[i] & mask * 0x01010101u;
    return joined;
}
INLINE vector shift_bits(vector x, int places) {
    for (int i = 0; i < LANES; i++)
        x.lane[i] = (int32_t)(places < 0 ? (uint32_t)x.lane[i] >> -places : (uint32_t)x.lane[i] << places);
    return x;
}
#endif

/* Return the values of indices, plus 128 except with AVX2. */
INLINE vector look_up(vector indices) {
#if LANES == 16
    const __m128i table = _mm_setr_epi8(TABLE_VALUES);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_xor_si128(table, _mm_set1_epi8(-128))), indices);
#elif defined(__AVX2__)
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_setr_epi8(TABLE_VALUES)), indices);
#else
    static const int8_t table[] = {TABLE_VALUES};
    uint8_t bytes[VECTOR_BYTES];
    memcpy(bytes, indices.lane, sizeof bytes);
    for (int i = 0; i < VECTOR_BYTES; i++) bytes[i] = (uint8_t)(table[bytes[i]] + 128);
    return load_bytes(bytes);
#endif
}

/* Load the integers of a step for both halves of the outputs. */
INLINE void load_step(enum integers kind, const uint8_t *block, int step, vector *weights) {
    for (int v = 0; v < VECTORS; v++) {
        vector pairs = kind == TWO_BITS || kind == THREE_BITS || kind == SIX_BITS
                           ? load_bytes(block + two_bit_planes(kind) + (2 * v + step / 4) * VECTOR_BYTES)
                           : zeros();
        vector bits = kind == THREE_BITS || kind == FIVE_BITS ? load_bytes(block + one_bit_planes(kind) + v * VECTOR_BYTES)
                                                              : zeros();
        if (kind == EIGHT_BITS) {
            weights[v] = load_bytes(block + (step * VECTORS + v) * VECTOR_BYTES);
            continue;
        }
        if (kind == TWO_BITS || kind == THREE_BITS) weights[v] = mask_bytes(shift_bits(pairs, -2 * (step % 4)), 3);
        else weights[v] = mask_bytes(shift_bits(load_bytes(block + step * VECTOR_BYTES), v ? -4 : 0), 15);
        if (kind == THREE_BITS) weights[v] = join_bits(weights[v], shift_bits(bits, 2 - step), 4);
        if (kind == FIVE_BITS) weights[v] = join_bits(weights[v], shift_bits(bits, 4 - step), 16);
        if (kind == SIX_BITS) weights[v] = join_bits(weights[v], shift_bits(pairs, 4 - 2 * (step % 4)), 48);
        if (kind == TABLE) weights[v] = look_up(weights[v]);
    }
}

INLINE void put_bits(uint8_t *bytes, int64_t lane, uint32_t bits) {
    uint32_t word;
    memcpy(&word, bytes + lane * sizeof word, sizeof word);
    word |= bits;
    memcpy(bytes + lane * sizeof word, &word, sizeof word);
}

/* Store a block's integers of output o. */
static inline void pack_integers(enum integers kind, const uint8_t *integers, uint8_t *block, int64_t o) {
    int64_t v = o / LANES, lane = o % LANES;
    for (int step = 0; step < STEPS; step++) {
        uint32_t four;
        memcpy(&four, integers + step * AT_ONCE, sizeof four);
        if (kind == EIGHT_BITS) put_bits(block + (step * VECTORS + v) * VECTOR_BYTES, lane, four);
        else if (kind != TWO_BITS && kind != THREE_BITS)
            put_bits(block + step * VECTOR_BYTES, lane, (four & 0x0f0f0f0f) << 4 * v);
        if (kind == TWO_BITS || kind == THREE_BITS || kind == SIX_BITS) {
            uint32_t pairs = (kind == SIX_BITS ? four >> 4 : four) & 0x03030303;
            put_bits(block + two_bit_planes(kind) + (2 * v + step / 4) * VECTOR_BYTES, lane, pairs << 2 * (step % 4));
        }
        if (kind == THREE_BITS || kind == FIVE_BITS) {
            uint32_t bits = four >> (kind == FIVE_BITS ? 4 : 2) & 0x01010101;
            put_bits(block + one_bit_planes(kind) + v * VECTOR_BYTES, lane, bits << step);
        }
    }
}

/* Load a block's integers of output o, as they were stored. */
static inline void unpack_integers(enum integers kind, const uint8_t *block, int64_t o, uint8_t *integers) {
    int64_t v = o / LANES, place = o % LANES * AT_ONCE;
    for (int i = 0; i < BLOCK; i++) {
        int step = i / AT_ONCE;
        const uint8_t *byte = block + place + i % AT_ONCE;
        int integer = 0;
        if (kind == EIGHT_BITS) integer = byte[(step * VECTORS + v) * VECTOR_BYTES];
        else if (kind != TWO_BITS && kind != THREE_BITS) integer = byte[step * VECTOR_BYTES] >> 4 * v & 15;
        if (kind == TWO_BITS || kind == THREE_BITS || kind == SIX_BITS) {
            int pair = byte[two_bit_planes(kind) + (2 * v + step / 4) * VECTOR_BYTES] >> 2 * (step % 4) & 3;
            integer |= kind == SIX_BITS ? pair << 4 : pair;
        }
        if (kind == THREE_BITS || kind == FIVE_BITS) {
            int bit = byte[one_bit_planes(kind) + v * VECTOR_BYTES] >> step & 1;
            integer |= bit << (kind == FIVE_BITS ? 4 : 2);
        }
        integers[i] = (uint8_t)integer;
    }
}

#endif
