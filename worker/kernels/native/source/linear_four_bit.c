/* Linear with weights of four bits as they are in the model's file: per block of inputs w = scale * integer + minimum. The twin is in
   four_bit.py.

   The matrix lies in panels of PANEL outputs. A panel is read from its start to its end: for each block of inputs the weights, then
   their scales and minima. A block of inputs is rounded as it is, not turned; of its integers the sum is all that a minimum needs. */
#include "arithmetic.h"
#include "four_bit_products.h"
#include "linear.h"
#include "pool.h"

/* Memory is read ahead as in linear.c. */
enum { BLOCK = 32, STEPS = BLOCK / AT_ONCE, PREFETCHED_BYTES = 2048 };
static const float INVERSE_LEVELS = 1.0f / 127;

struct rounded_block {
    float scale, sum; /* the sum of the integers, times the scale */
    int8_t x[BLOCK];
};

struct panel_block {
    uint8_t weights[BLOCK / AT_ONCE][LANES * AT_ONCE];
    float scales[PANEL], minima[PANEL];
};

static int64_t count_blocks(int64_t num_in) { return num_in / BLOCK; }

/* Scratch memory for each token. */
EXPORT int64_t four_bit_scratch_bytes(int64_t num_in) { return count_blocks(num_in) * sizeof(struct rounded_block); }

EXPORT int64_t four_bit_panels_bytes(int64_t num_out, int64_t num_in) {
    return divide_up(num_out, PANEL) * count_blocks(num_in) * sizeof(struct panel_block);
}

static void round_block(const float *x, struct rounded_block *rounded) {
    float scale = rounded->scale = row_scale(x, BLOCK, INVERSE_LEVELS);
    int32_t sum = 0;
    for (int i = 0; i < BLOCK; i++) {
        int32_t integer = round_to_int(x[i] / scale);
        rounded->x[i] = (int8_t)integer;
        sum += integer;
    }
    rounded->sum = (float)sum * scale;
}

static void round_tokens(const void *argument, int64_t first, int64_t end) {
    const struct linear_call *call = argument;
    struct rounded_block *rows = call->rows;
    int64_t num_blocks = count_blocks(call->num_in);
    for (int64_t block = first * num_blocks; block < end * num_blocks; block++)
        round_block(call->x + block * BLOCK, rows + block);
}

INLINE void add_sums(vector sums, const struct rounded_block *row, const struct panel_block *panel, int v, float *totals) {
    floats total = load_floats(totals + v * LANES);
    total += to_floats(whole_sums(sums)) * load_floats(panel->scales + v * LANES) * row->scale;
    total += load_floats(panel->minima + v * LANES) * row->sum;
    store_floats(totals + v * LANES, total);
}

INLINE void add_block(const struct rounded_block *rows, int64_t num_blocks, const struct panel_block *panel, int num_rows,
                      float totals[ROWS][PANEL]) {
    vector sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < STEPS; i++) {
        __builtin_prefetch((const char *)panel + i * sizeof *panel / STEPS + PREFETCHED_BYTES, 0, 2);
        vector packed = load_packed(panel->weights[i]);
        vector weights[VECTORS] = {low_halves(packed), high_halves(packed)};
        for (int row = 0; row < num_rows; row++) {
            vector x = repeat_four(rows[row * num_blocks].x + i * AT_ONCE);
            for (int v = 0; v < VECTORS; v++)
                sums[row][v] = i ? add_products(sums[row][v], x, weights[v]) : first_products(x, weights[v]);
        }
    }
    for (int row = 0; row < num_rows; row++)
        for (int v = 0; v < VECTORS; v++) add_sums(sums[row][v], rows + row * num_blocks, panel, v, totals[row]);
}

INLINE void multiply_rows(const struct linear_call *call, int64_t token, int64_t p, int num_rows) {
    int64_t num_blocks = count_blocks(call->num_in);
    const struct rounded_block *rows = (const struct rounded_block *)call->rows + token * num_blocks;
    const struct panel_block *panel = (const struct panel_block *)call->panels + p * num_blocks;
    float totals[ROWS][PANEL] = {{0}};
    for (int64_t block = 0; block < num_blocks; block++)
        add_block(rows + block, num_blocks, panel + block, num_rows, totals);
    for (int row = 0; row < num_rows; row++) store_outputs(call, token + row, p, PANEL, totals[row]);
}

/* The number of rows is a constant in each call, so that their sums stay in registers. */
static void multiply_some_rows(const struct linear_call *call, int64_t token, int64_t p, int64_t num_rows) {
    switch (num_rows) {
        case 1: multiply_rows(call, token, p, 1); break;
        case 2: multiply_rows(call, token, p, 2); break;
        case 3: multiply_rows(call, token, p, 3); break;
#if LANES == 16
        case 4: multiply_rows(call, token, p, 4); break;
        case 5: multiply_rows(call, token, p, 5); break;
#endif
        default: multiply_rows(call, token, p, ROWS);
    }
}

EXPORT void linear_four_bit(const struct linear_call *call, int64_t num_tokens) {
    static const struct linear_format format = {PANEL, ROWS, four_bit_scratch_bytes, round_tokens, multiply_some_rows};
    run_linear(&format, call, num_tokens);
}

/* Integers [O, I] one to a byte, scales and minima [O, G], into panels. Of outputs that the last panel has beyond O nobody looks at
   the sums: all about them is zero. */
EXPORT void pack_four_bit_panels(const uint8_t *integers, const float *scales, const float *minima, struct panel_block *panels,
                                 int64_t num_out, int64_t num_in) {
    int64_t num_blocks = count_blocks(num_in);
    memset(panels, 0, four_bit_panels_bytes(num_out, num_in));
    for (int64_t out = 0; out < num_out; out++)
        for (int64_t block = 0; block < num_blocks; block++) {
            struct panel_block *packed = panels + out / PANEL * num_blocks + block;
            int64_t o = out % PANEL, g = out * num_blocks + block;
            for (int i = 0; i < BLOCK; i++)
                packed->weights[i / AT_ONCE][o % LANES * AT_ONCE + i % AT_ONCE] |= integers[g * BLOCK + i] << o / LANES * 4;
            packed->scales[o] = scales[g];
            packed->minima[o] = minima[g];
        }
}
