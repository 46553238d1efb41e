/* A grouped format's functions, made from the kinds of its integers and factors. All of these are constants where the functions
   are inlined, and so is the number of rows, so that sums stay in registers. */
#ifndef PAGODA_GROUPED_MULTIPLY_H
#define PAGODA_GROUPED_MULTIPLY_H

#include "grouped_factors.h"
#include "grouped_integers.h"

/* How far memory is read ahead. One Zen 5 core needs 8 KiB for its 40 GB/s: with 2 KiB, a product with eight rows takes 1.7 times
   as long (Q4_K, of 1,536 inputs). */
enum { PREFETCHED_BYTES = 8192, CACHE_LINE = 64 };

/* Without vectors of the processor's own, unrolled code takes three times as long to compile and is no faster. */
#if LANES == 16 || defined(__AVX2__)
enum { UNROLLED_STEPS = 8 };
#else
enum { UNROLLED_STEPS = 1 };
#endif

/* A format: the value of a weight is scale * (integer - offset) + minimum. With factors that have a zero, it is the offset. */
struct kind {
    enum integers integers;
    enum factors factors;
    int offset;
};

/* Read a span of one output from the file: integers, without the offset, and factors. */
typedef void (*read_function)(const uint8_t *file, uint8_t *integers, struct file_factors *factors);

INLINE int64_t span_bytes(struct kind kind) {
    return factor_bytes(kind.factors) + span_of(kind.factors) / BLOCK * block_bytes(kind.integers);
}

/* Return a block's part of the bytes of a span. */
INLINE int64_t block_share(struct kind kind) { return span_bytes(kind) / (span_of(kind.factors) / BLOCK); }

/* Return the value of the integer zero that remains after the products are added. */
INLINE int offset_of_products(struct kind kind) {
#if LANES == 8 && defined(__AVX2__)
    return kind.integers == EIGHT_BITS || kind.integers == TABLE ? 0 : kind.offset;
#else
    return kind.offset;
#endif
}

#if LANES == 8 && defined(__AVX2__)
INLINE vector add_sums(vector a, vector b) { return _mm256_add_epi32(a, b); }

/* Return the number of steps for which a pair's products can be added in 16 bits: 2 * 127 * largest integer * steps < 2^15. */
INLINE int steps_per_sum(enum integers kind) { return kind >= EIGHT_BITS ? 1 : kind == SIX_BITS ? 2 : kind == FIVE_BITS ? 4 : 8; }

INLINE vector multiply_bytes(enum integers kind, vector weights, vector x) {
    if (kind < EIGHT_BITS) return _mm256_maddubs_epi16(weights, x);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
}

/* Add a step's products. Inline assembly keeps additions in place: GCC 12 would multiply for all rows first and keep sums
   in memory. */
INLINE void add_step(enum integers kind, int step, int steps, vector x, vector weights, vector *part, vector *sum) {
    int of_sum = step % steps_per_sum(kind), last = steps_per_sum(kind) < steps ? steps_per_sum(kind) - 1 : steps - 1;
    if (kind == EIGHT_BITS) weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
    vector products = multiply_bytes(kind, weights, x);
    if (of_sum) __asm__ volatile("vpaddw %1, %0, %0" : "+x"(*part) : "x"(products));
    else {
        __asm__ volatile("" : "+x"(products));
        *part = products;
    }
    if (of_sum == last) *sum = add_sums(*sum, _mm256_madd_epi16(*part, _mm256_set1_epi16(1)));
}
#else
INLINE void add_step(enum integers kind, int step, int steps, vector x, vector weights, vector *part, vector *sum) {
    (void)kind, (void)step, (void)steps, (void)part;
#if LANES == 16
    /* Inline assembly instead of the intrinsic, for the reason given in products.h. */
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(x));
#else
    for (int byte = 0; byte < AT_ONCE; byte++)
        for (int i = 0; i < LANES; i++)
            sum->lane[i] += (int8_t)(x.lane[i] >> 8 * byte) * (weights.lane[i] >> 8 * byte & 255);
#endif
}
#endif

/* Read ahead as much as a step reads, including its share of the span's factors. */
INLINE void prefetch_step(struct kind kind, const uint8_t *ahead, int step) {
    int lines = (block_share(kind) + CACHE_LINE - 1) / CACHE_LINE;
    for (int line = step * lines / STEPS; line < (step + 1) * lines / STEPS; line++)
        __builtin_prefetch(ahead + line * CACHE_LINE, 0, 3);
}

/* Return -zero * sum for one half of the outputs. The sum of a block's inputs has less than 16 bits. */
INLINE vector subtract_zeros(enum factors kind, const uint8_t *span, int v, int32_t sum) {
    int16_t pair[] = {(int16_t)-sum, 0};
    ints lanes = load_small_ints(span + zeros_of(kind) + v * LANES);
    vector values;
    memcpy(&values, &lanes, sizeof values);
    return add_pairs(zeros(), values, repeat_pair(pair));
}

/* Compute a group's exact sums for all rows. */
INLINE void sum_group(struct kind kind, const uint8_t *span, const uint8_t *block, const uint8_t *ahead, int first_step,
                      int steps, const struct rounded_block *const *rows, int64_t at, int num_rows, vector (*sums)[VECTORS]) {
    vector parts[ROWS_AT_ONCE][VECTORS];
    int offset = offset_of_products(kind);
    for (int row = 0; row < num_rows; row++) {
        const struct rounded_block *x = rows[row] + at;
        int32_t sum = steps == STEPS ? x->sum : x->half_sums[first_step / steps];
        for (int v = 0; v < VECTORS; v++)
            if (has_zero(kind.factors)) sums[row][v] = subtract_zeros(kind.factors, span, v, sum);
            else sums[row][v] = offset ? repeat_sum(-offset * sum) : zeros();
    }
#pragma GCC unroll UNROLLED_STEPS
    for (int step = 0; step < steps; step++) {
        vector weights[VECTORS];
        prefetch_step(kind, ahead, first_step + step);
        load_step(kind.integers, block, first_step + step, weights);
        for (int row = 0; row < num_rows; row++) {
            vector x = repeat_four(rows[row][at].x + (first_step + step) * AT_ONCE);
            for (int v = 0; v < VECTORS; v++)
                add_step(kind.integers, step, steps, x, weights[v], &parts[row][v], &sums[row][v]);
        }
    }
}

/* The scale and the minimum of a group for one half of the outputs. */
struct group_factors {
    floats scale, minimum;
};

INLINE struct group_factors factors_of(struct kind kind, const uint8_t *span, const struct span_factors *decoded, int group,
                                       int v) {
    struct group_factors factors = {.scale = load_factors(kind.factors, span, decoded->scales[group], 0, v * LANES)};
    if (has_minimum(kind.factors)) factors.minimum = load_factors(kind.factors, span, decoded->minima[group], 1, v * LANES);
    return factors;
}

INLINE void add_block(struct kind kind, const uint8_t *span, const struct span_factors *decoded, const uint8_t *block, int b,
                      const struct rounded_block *const *rows, int64_t at, int num_rows, floats (*totals)[VECTORS]) {
    vector sums[ROWS_AT_ONCE][VECTORS];
    const uint8_t *ahead = span + b * block_share(kind) + PREFETCHED_BYTES;
    if (group_of(kind.factors) == BLOCK) {
        sum_group(kind, span, block, ahead, 0, STEPS, rows, at, num_rows, sums);
        for (int v = 0; v < VECTORS; v++) {
            struct group_factors factors = factors_of(kind, span, decoded, b, v);
            for (int row = 0; row < num_rows; row++) {
                const struct rounded_block *x = rows[row] + at;
                totals[row][v] += to_floats(sums[row][v]) * factors.scale * x->scale;
                if (has_minimum(kind.factors)) totals[row][v] += factors.minimum * x->offset;
            }
        }
        return;
    }
    floats scaled[ROWS_AT_ONCE][VECTORS];
    sum_group(kind, span, block, ahead, 0, STEPS / 2, rows, at, num_rows, sums);
    for (int v = 0; v < VECTORS; v++) {
        floats scale = factors_of(kind, span, decoded, 2 * b, v).scale;
        for (int row = 0; row < num_rows; row++) scaled[row][v] = to_floats(sums[row][v]) * scale;
    }
    sum_group(kind, span, block, ahead, STEPS / 2, STEPS / 2, rows, at, num_rows, sums);
    for (int v = 0; v < VECTORS; v++) {
        struct group_factors first = factors_of(kind, span, decoded, 2 * b, v);
        struct group_factors second = factors_of(kind, span, decoded, 2 * b + 1, v);
        for (int row = 0; row < num_rows; row++) {
            const struct rounded_block *x = rows[row] + at;
            totals[row][v] += (scaled[row][v] + to_floats(sums[row][v]) * second.scale) * x->scale;
            if (has_minimum(kind.factors))
                totals[row][v] += first.minimum * x->half_offsets[0] + second.minimum * x->half_offsets[1];
        }
    }
}

INLINE void multiply_rows(struct kind kind, const uint8_t *panel, int64_t first, int64_t count,
                          const struct rounded_block *const *rows, int num_rows, float *const *out) {
    int blocks_of_span = span_of(kind.factors) / BLOCK, b = (int)(first % blocks_of_span);
    const uint8_t *span = panel + first / blocks_of_span * span_bytes(kind);
    floats totals[ROWS_AT_ONCE][VECTORS];
    struct span_factors decoded;
    for (int row = 0; row < num_rows; row++) memcpy(totals[row], out[row], sizeof *totals);
    for (int64_t at = 0; at < count; b = 0, span += span_bytes(kind)) {
        const uint8_t *block = span + factor_bytes(kind.factors) + b * block_bytes(kind.integers);
        if (are_decoded(kind.factors)) decode_factors(kind.factors, span, &decoded);
#pragma GCC unroll 1
        for (; b < blocks_of_span && at < count; b++, at++, block += block_bytes(kind.integers))
            add_block(kind, span, &decoded, block, b, rows, at, num_rows, totals);
    }
    for (int row = 0; row < num_rows; row++) memcpy(out[row], totals[row], sizeof *totals);
}

/* Multiply with code for a few numbers of rows. Other numbers are rounded up: the first row is multiplied again, for nothing. */
INLINE void multiply_panel(struct kind kind, const uint8_t *panel, int64_t first, int64_t count,
                           const struct rounded_block *const *rows, int64_t num_rows, float *const *totals) {
    const struct rounded_block *all[ROWS_AT_ONCE];
    float unused[PANEL] = {0}, *out[ROWS_AT_ONCE];
    for (int row = 0; row < ROWS_AT_ONCE; row++) {
        all[row] = rows[row < num_rows ? row : 0];
        out[row] = row < num_rows ? totals[row] : unused;
    }
    if (num_rows == 1) multiply_rows(kind, panel, first, count, all, 1, out);
#if LANES == 16 || defined(__AVX2__)
    else if (num_rows == 2) multiply_rows(kind, panel, first, count, all, 2, out);
#endif
#if LANES == 16
    else if (num_rows <= 4) multiply_rows(kind, panel, first, count, all, 4, out);
    else if (num_rows <= 6) multiply_rows(kind, panel, first, count, all, 6, out);
#endif
    else multiply_rows(kind, panel, first, count, all, ROWS_AT_ONCE, out);
}

INLINE void pack_span(struct kind kind, read_function read, const uint8_t *file, uint8_t *span, int64_t o) {
    uint8_t integers[LONGEST_SPAN];
    struct file_factors factors;
    read(file, integers, &factors);
    pack_factors(kind.factors, &factors, span, o);
    for (int b = 0; b < span_of(kind.factors) / BLOCK; b++)
        pack_integers(kind.integers, integers + b * BLOCK, span + factor_bytes(kind.factors) + b * block_bytes(kind.integers), o);
}

INLINE void unpack_span(struct kind kind, const uint8_t *span, int64_t o, float *weights) {
    static const int8_t table[] = {TABLE_VALUES};
    struct span_factors decoded;
    int group = group_of(kind.factors), v = (int)(o / LANES);
    if (are_decoded(kind.factors)) decode_factors(kind.factors, span, &decoded);
    int offset = has_zero(kind.factors) ? (int8_t)span[zeros_of(kind.factors) + o] : kind.offset;
    for (int i = 0; i < span_of(kind.factors); i += group) {
        uint8_t integers[BLOCK];
        const uint8_t *block = span + factor_bytes(kind.factors) + i / BLOCK * block_bytes(kind.integers);
        if (i % BLOCK == 0) unpack_integers(kind.integers, block, o, integers);
        struct group_factors factors = factors_of(kind, span, &decoded, i / group, v);
        float scale = factors.scale[o % LANES], minimum = factors.minimum[o % LANES];
        for (int k = 0; k < group; k++) {
            int integer = integers[i % BLOCK + k];
            integer = kind.integers == TABLE ? table[integer] : integer - offset;
            weights[i + k] = (float)integer * scale;
            if (has_minimum(kind.factors)) weights[i + k] += minimum;
        }
    }
}

/* Define a format. The last argument is its kind. */
#define GROUPED_FORMAT(NAME, SPAN, READ, FILE_BYTES, ...)                                                                     \
    static const struct kind NAME##_kind = __VA_ARGS__;                                                                      \
    static int64_t NAME##_bytes(void) { return span_bytes(NAME##_kind); }                                                    \
    static void pack_##NAME(const uint8_t *file, uint8_t *span, int64_t o) { pack_span(NAME##_kind, READ, file, span, o); }   \
    static void unpack_##NAME(const uint8_t *span, int64_t o, float *weights) { unpack_span(NAME##_kind, span, o, weights); } \
    static void multiply_##NAME(const uint8_t *panel, int64_t first, int64_t count, const struct rounded_block *const *rows, \
                                int64_t num_rows, float *const *totals) {                                                    \
        multiply_panel(NAME##_kind, panel, first, count, rows, num_rows, totals);                                            \
    }                                                                                                                        \
    const struct grouped_format NAME = {#NAME,       SPAN,          FILE_BYTES,     NAME##_bytes,                            \
                                        pack_##NAME, unpack_##NAME, multiply_##NAME}

#endif
