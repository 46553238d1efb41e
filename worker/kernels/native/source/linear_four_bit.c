/* The linear with weights of four bits, as in the model's file: for each block of inputs w = scale * integer + minimum. The
   reference implementation in torch is in four_bit.py.

   The matrix is stored in panels of PANEL outputs. A panel is read from start to end: for each block of inputs the weights, then
   their scales and minima, of 32 bits, or of 16 bits if the packer found that to be exact. A block of inputs is rounded without
   a rotation; a minimum is multiplied with the sum of the block's integers. */
#include "arithmetic.h"
#include "four_bit_products.h"
#include "linear_tiles.h"
#include "pool.h"

/* Memory is read ahead as in linear.c. */
enum { BLOCK = 32, STEPS = BLOCK / AT_ONCE, PREFETCHED_BYTES = 2048 };
static const float INVERSE_LEVELS = 1.0f / 127;

struct rounded_block {
    float scale, sum; /* the sum of the integers, times the scale */
    int8_t x[BLOCK];
};

struct panel_block {
    uint8_t weights[STEPS][LANES * AT_ONCE];
    uint8_t factors[]; /* scales[PANEL], minima[PANEL] */
};

static int64_t count_blocks(int64_t num_in) { return num_in / BLOCK; }

/* Return the scratch memory for each token. */
EXPORT int64_t four_bit_scratch_bytes(int64_t num_in) { return count_blocks(num_in) * sizeof(struct rounded_block); }

static int64_t block_bytes(int64_t factor_bytes) { return sizeof(struct panel_block) + 2 * PANEL * factor_bytes; }

EXPORT int64_t four_bit_panels_bytes(int64_t num_out, int64_t num_in, int64_t factor_bytes) {
    return divide_up(num_out, PANEL) * count_blocks(num_in) * block_bytes(factor_bytes);
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

INLINE floats load_factors(const struct panel_block *panel, int first, int factor_bytes) {
    const uint8_t *factors = panel->factors + first * factor_bytes;
    return factor_bytes == sizeof(float) ? load_floats((const float *)factors) : load_half_floats((const uint16_t *)factors);
}

INLINE void add_sums(vector sums, const struct rounded_block *row, const struct panel_block *panel, int v, int factor_bytes,
                     float *totals) {
    floats scales = load_factors(panel, v * LANES, factor_bytes);
    floats minima = load_factors(panel, PANEL + v * LANES, factor_bytes);
    floats total = load_floats(totals + v * LANES);
    total += to_floats(whole_sums(sums)) * scales * row->scale;
    total += minima * row->sum;
    store_floats(totals + v * LANES, total);
}

INLINE void add_block(const struct rounded_block *rows, int64_t num_blocks, const struct panel_block *panel, int factor_bytes,
                      int num_rows, float totals[ROWS][PANEL]) {
    vector sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < STEPS; i++) {
        __builtin_prefetch((const char *)panel + i * block_bytes(factor_bytes) / STEPS + PREFETCHED_BYTES, 0, 2);
        vector packed = load_packed(panel->weights[i]);
        vector weights[VECTORS] = {low_halves(packed), high_halves(packed)};
        for (int row = 0; row < num_rows; row++) {
            vector x = repeat_four(rows[row * num_blocks].x + i * AT_ONCE);
            for (int v = 0; v < VECTORS; v++)
                sums[row][v] = i ? add_products(sums[row][v], x, weights[v]) : first_products(x, weights[v]);
        }
    }
    for (int row = 0; row < num_rows; row++)
        for (int v = 0; v < VECTORS; v++) add_sums(sums[row][v], rows + row * num_blocks, panel, v, factor_bytes, totals[row]);
}

INLINE void multiply_rows(const struct linear_call *call, int64_t token, int64_t p, int factor_bytes, int num_rows) {
    int64_t num_blocks = count_blocks(call->num_in);
    const struct rounded_block *rows = (const struct rounded_block *)call->rows + token * num_blocks;
    const uint8_t *panel = (const uint8_t *)call->panels + p * num_blocks * block_bytes(factor_bytes);
    float totals[ROWS][PANEL] = {{0}};
    for (int64_t block = 0; block < num_blocks; block++, panel += block_bytes(factor_bytes))
        add_block(rows + block, num_blocks, (const struct panel_block *)panel, factor_bytes, num_rows, totals);
    for (int row = 0; row < num_rows; row++) store_outputs(call, token + row, p, PANEL, totals[row]);
}

/* The number of rows and factor_bytes are constants in each call, so that sums stay in registers. */
INLINE void multiply_some_rows(const struct linear_call *call, int64_t token, int64_t p, int factor_bytes, int64_t num_rows) {
    switch (num_rows) {
        case 1: multiply_rows(call, token, p, factor_bytes, 1); break;
        case 2: multiply_rows(call, token, p, factor_bytes, 2); break;
        case 3: multiply_rows(call, token, p, factor_bytes, 3); break;
#if LANES == 16
        case 4: multiply_rows(call, token, p, factor_bytes, 4); break;
        case 5: multiply_rows(call, token, p, factor_bytes, 5); break;
#endif
        default: multiply_rows(call, token, p, factor_bytes, ROWS);
    }
}

static void multiply_by_floats(const struct linear_call *call, int64_t token, int64_t p, int64_t num_rows) {
    multiply_some_rows(call, token, p, sizeof(float), num_rows);
}

static void multiply_by_half_floats(const struct linear_call *call, int64_t token, int64_t p, int64_t num_rows) {
    multiply_some_rows(call, token, p, sizeof(uint16_t), num_rows);
}

EXPORT const struct linear_format linear_four_bit_format = {PANEL, ROWS, four_bit_scratch_bytes, round_tokens, multiply_by_floats};

EXPORT void linear_four_bit(const struct linear_call *call, int64_t num_tokens) { run_linear(&linear_four_bit_format, call, num_tokens); }

EXPORT const struct linear_format linear_four_bit_half_format = {PANEL, ROWS, four_bit_scratch_bytes, round_tokens, multiply_by_half_floats};

EXPORT void linear_four_bit_half(const struct linear_call *call, int64_t num_tokens) { run_linear(&linear_four_bit_half_format, call, num_tokens); }

static void pack_block(const uint8_t *integers, const uint8_t *scale, const uint8_t *minimum, int64_t factor_bytes,
                       struct panel_block *packed, int64_t o) {
    for (int i = 0; i < BLOCK; i++)
        packed->weights[i / AT_ONCE][o % LANES * AT_ONCE + i % AT_ONCE] |= integers[i] << o / LANES * 4;
    memcpy(packed->factors + o * factor_bytes, scale, factor_bytes);
    memcpy(packed->factors + (PANEL + o) * factor_bytes, minimum, factor_bytes);
}

/* Pack integers [O, I], one per byte, with scales and minima [O, G] of factor_bytes each, into panels. In the last panel, outputs
   beyond O are all zero, and their sums are not used. */
EXPORT void pack_four_bit_panels(const uint8_t *integers, const uint8_t *scales, const uint8_t *minima, uint8_t *panels,
                                 int64_t num_out, int64_t num_in, int64_t factor_bytes) {
    int64_t num_blocks = count_blocks(num_in), bytes = block_bytes(factor_bytes);
    memset(panels, 0, four_bit_panels_bytes(num_out, num_in, factor_bytes));
    for (int64_t g = 0; g < num_out * num_blocks; g++) {
        int64_t out = g / num_blocks, block = out / PANEL * num_blocks + g % num_blocks;
        pack_block(integers + g * BLOCK, scales + g * factor_bytes, minima + g * factor_bytes, factor_bytes,
                   (struct panel_block *)(panels + block * bytes), out % PANEL);
    }
}
