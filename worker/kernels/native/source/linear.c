/* The linear with int8 weights: Hadamard-rotated and rounded blocks of the input, their exact products with the matrix, and the
   scales. The reference implementation in torch is in integer.py, the format in hadamard_int8.py.

   The matrix is stored in panels of PANEL outputs. A panel is read from start to end: for each block of inputs the weights, then
   their scales. So a sum stays in its lane, and each load serves ROWS rows. */
#include "float_rows.h"
#include "hadamard_int8.h"
#include "linear_tiles.h"
#include "pool.h"
#include "products.h"

/* The processor's own prefetching stops at the end of each page. Times to decode 1, 4 and 8 sequences on Zen 3 with one thread
   and huge pages: 7.0, 7.9 and 15.0 ms with 2 KiB; 8.3, 7.8 and 15.0 ms with 4 KiB; 7.7, 10.2 and 17.3 ms without this. */
enum { PREFETCHED_BYTES = 2048 };

struct rounded_block {
    float scale;
    int32_t start; /* initial value of each sum */
    activation x[BLOCK];
};

struct panel_block {
    uint8_t weights[BLOCK * PANEL];
    float scales[PANEL];
};

static int64_t count_blocks(int64_t num_in) { return divide_up(num_in, BLOCK); }

static int64_t row_bytes(int64_t num_in) { return count_blocks(num_in) * sizeof(struct rounded_block); }

static int64_t panel_bytes(const struct linear_format *format, int64_t num_in) {
    (void)format;
    return count_blocks(num_in) * sizeof(struct panel_block);
}

static void round_block(const float *x, int64_t size, struct rounded_block *rounded) {
    float rotated[BLOCK] = {0};
    memcpy(rotated, x, size * sizeof(float));
    rotate_block(rotated);
    float scale = rounded->scale = row_scale(rotated, BLOCK, BLOCK_INVERSE_LEVELS);
    int32_t sum = 0;
    for (int i = 0; i < BLOCK; i++) {
        int32_t integer = round_to_int(rotated[i] / scale);
        rounded->x[i] = (activation)integer;
        sum += integer;
    }
    rounded->start = -WEIGHT_OFFSET * sum;
}

static void round_tokens(const void *argument, int64_t first, int64_t end) {
    const struct linear_call *call = argument;
    struct rounded_block *rows = call->rows;
    int64_t num_in = call->num_in, num_blocks = count_blocks(num_in);
    for (int64_t token = first; token < end; token++)
        for (int64_t block = 0; block < num_blocks; block++)
            round_block(call->x + token * num_in + block * BLOCK, smaller(num_in - block * BLOCK, BLOCK),
                        rows + token * num_blocks + block);
}

INLINE void add_block(const struct rounded_block *rows, int64_t num_blocks, const struct panel_block *panel, int num_rows,
                      float totals[ROWS][PANEL]) {
    vector sums[ROWS][VECTORS];
    for (int row = 0; row < num_rows; row++)
        for (int v = 0; v < VECTORS; v++) sums[row][v] = repeat_sum(rows[row * num_blocks].start);
#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += AT_ONCE) {
        weights w[VECTORS];
        __builtin_prefetch(panel->weights + i * PANEL + PREFETCHED_BYTES, 0, 2);
        for (int v = 0; v < VECTORS; v++) w[v] = load_weights(panel->weights + i * PANEL + v * LANES * AT_ONCE);
        for (int row = 0; row < num_rows; row++) {
            vector x = repeat(rows[row * num_blocks].x + i);
            for (int v = 0; v < VECTORS; v++) sums[row][v] = add_products(sums[row][v], x, w[v]);
        }
    }
    for (int row = 0; row < num_rows; row++)
        for (int v = 0; v < VECTORS; v++)
            add_scaled_sums(totals[row] + v * LANES, sums[row][v], panel->scales + v * LANES, rows[row * num_blocks].scale);
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
static void multiply_some_rows(const struct linear_format *format, const struct linear_call *call, int64_t token, int64_t p,
                               int64_t num_rows) {
    (void)format;
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

EXPORT const struct linear_format hadamard_int8_format = {
    .panel = PANEL,
    .rows_at_once = ROWS,
    .bytes_per_token = row_bytes,
    .panel_bytes = panel_bytes,
    .round_tokens = round_tokens,
    .multiply = multiply_some_rows,
};

/* Pack one block of a row of weights into output o of a panel, as integers and a scale. Weights are Hadamard-rotated as inputs
   are, so the product is BLOCK times too large; the scale corrects that. */
static void pack_block(const float *weights, int64_t size, struct panel_block *packed, int64_t o) {
    float rotated[BLOCK] = {0};
    memcpy(rotated, weights, size * sizeof(float));
    rotate_block(rotated);
    float scale = row_scale(rotated, BLOCK, BLOCK_INVERSE_LEVELS);
    int32_t integers[BLOCK];
    for (int i = 0; i < BLOCK; i++) integers[i] = round_to_int(rotated[i] / scale);
    for (int i = 0; i < BLOCK; i++) packed->weights[place_in_panel(o, i)] = (uint8_t)(integers[i] + WEIGHT_OFFSET);
    packed->scales[o] = scale / BLOCK;
}

#define FLOATS_PACK_CALL(FIELD)                                                   \
    FIELD(const void *, floats) /* [rows of the file, I] */                       \
    FIELD(const int64_t *, row_order) /* [O]: the file's row of each output, or NULL */ \
    FIELD(void *, panels)                                                         \
    FIELD(int64_t, type) /* enum float_type */                                    \
    FIELD(int64_t, num_in)                                                        \
    FIELD(int64_t, num_out)
SHARED_STRUCT(floats_pack_call, FLOATS_PACK_CALL);
EXPORT_LAYOUT(floats_pack_call, FLOATS_PACK_CALL)

static void pack_output(const struct floats_pack_call *call, int64_t out, struct panel_block *panel) {
    int64_t start = (call->row_order ? call->row_order[out] : out) * call->num_in;
    for (int64_t block = 0; block < count_blocks(call->num_in); block++) {
        float weights[BLOCK];
        int64_t size = smaller(call->num_in - block * BLOCK, BLOCK);
        read_floats(call->floats, call->type, start + block * BLOCK, size, weights);
        pack_block(weights, size, panel + block, out % PANEL);
    }
}

static void pack_panel(const void *argument, int64_t p, int thread) {
    (void)thread;
    const struct floats_pack_call *call = argument;
    struct panel_block *panel = (struct panel_block *)call->panels + p * count_blocks(call->num_in);
    int64_t end = smaller((p + 1) * PANEL, call->num_out);
    memset(panel, 0, panel_bytes(&hadamard_int8_format, call->num_in));
    for (int64_t out = p * PANEL; out < end; out++) pack_output(call, out, panel);
}

/* Pack a matrix, on all threads. In the last panel, outputs beyond O have a scale of zero, and their sums are not used. */
EXPORT void pack_floats(const struct floats_pack_call *call) {
    run_chunks(pack_panel, call, divide_up(call->num_out, PANEL));
}
