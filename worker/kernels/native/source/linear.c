/* Linear: the input's blocks turned and rounded, their exact products with an int8 matrix, and the scales. The twin is in
   integer.py, the format in blocks.py.

   The matrix lies in panels of PANEL outputs. A panel is read from its start to its end: for each block of inputs the
   weights, then their scales. So a sum stays in its lane, and what is read once serves ROWS rows. */
#include "blocks.h"
#include "pool.h"
#include "products.h"

/* The processor's own prefetching ends with each page. Decoding 1, 4 and 8 sequences on Zen 3, one thread, huge pages: 7.0, 7.9 and
   15.0 ms with 2 KiB, 7.7, 10.2 and 17.3 without, 8.3, 7.8 and 15.0 with 4 KiB. */
enum { CHUNKS_PER_THREAD = 6, PREFETCHED_BYTES = 2048 };
static const int64_t SERIAL_PRODUCTS = 1 << 17;
/* Rows that stay in a core's second cache while the panels pass by. */
static const int64_t TILE_BYTES = 160 << 10;

struct rounded_block {
    float scale;
    int32_t start; /* of each sum */
    activation x[BLOCK];
};

struct panel_block {
    uint8_t weights[BLOCK * PANEL];
    float scales[PANEL];
};

struct linear_call {
    const float *x; /* [T, I] */
    const struct panel_block *panels; /* [panels, G] */
    const float *bias;                /* [O], or missing */
    float *y;                         /* [T, O] */
    struct rounded_block *rows;       /* scratch [T, G] */
    int64_t num_in, num_out;
};

struct linear_job {
    const struct linear_call *call;
    int64_t num_tokens, num_blocks, panels_per_chunk;
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t count_blocks(int64_t num_in) { return (num_in + BLOCK - 1) / BLOCK; }
static int64_t count_panels(int64_t num_out) { return (num_out + PANEL - 1) / PANEL; }

/* Scratch memory for each token. */
EXPORT int64_t linear_scratch_bytes(int64_t num_in) { return count_blocks(num_in) * sizeof(struct rounded_block); }

EXPORT int64_t panels_bytes(int64_t num_out, int64_t num_in) {
    return count_panels(num_out) * count_blocks(num_in) * sizeof(struct panel_block);
}

static void round_block(const float *x, int64_t size, struct rounded_block *rounded) {
    float turned[BLOCK] = {0};
    memcpy(turned, x, size * sizeof(float));
    turn_block(turned);
    float scale = rounded->scale = row_scale(turned, BLOCK, BLOCK_INVERSE_LEVELS);
    int32_t sum = 0;
    for (int i = 0; i < BLOCK; i++) {
        int32_t integer = round_to_int(turned[i] / scale);
        rounded->x[i] = (activation)integer;
        sum += integer;
    }
    rounded->start = -WEIGHT_OFFSET * sum;
}

static void round_tokens(const void *argument, int64_t first, int64_t end) {
    const struct linear_job *job = argument;
    int64_t num_in = job->call->num_in;
    for (int64_t token = first; token < end; token++)
        for (int64_t block = 0; block < job->num_blocks; block++)
            round_block(job->call->x + token * num_in + block * BLOCK, smaller(num_in - block * BLOCK, BLOCK),
                        job->call->rows + token * job->num_blocks + block);
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

INLINE void multiply_rows(const struct linear_job *job, int64_t token, int64_t p, int num_rows) {
    const struct linear_call *call = job->call;
    float totals[ROWS][PANEL] = {{0}};
    for (int64_t block = 0; block < job->num_blocks; block++)
        add_block(call->rows + token * job->num_blocks + block, job->num_blocks,
                  call->panels + p * job->num_blocks + block, num_rows, totals);
    int64_t size = smaller(call->num_out - p * PANEL, PANEL);
    for (int row = 0; row < num_rows; row++) {
        float *restrict y = call->y + (token + row) * call->num_out + p * PANEL;
        for (int64_t o = 0; o < size; o++) y[o] = totals[row][o];
        if (call->bias)
            for (int64_t o = 0; o < size; o++) y[o] += call->bias[p * PANEL + o];
    }
}

/* The number of rows is a constant in each call, so that their sums stay in registers. */
static void multiply_some_rows(const struct linear_job *job, int64_t token, int64_t p, int64_t num_rows) {
    switch (num_rows) {
        case 1: multiply_rows(job, token, p, 1); break;
        case 2: multiply_rows(job, token, p, 2); break;
        case 3: multiply_rows(job, token, p, 3); break;
#if LANES == 16
        case 4: multiply_rows(job, token, p, 4); break;
        case 5: multiply_rows(job, token, p, 5); break;
#endif
        default: multiply_rows(job, token, p, ROWS);
    }
}

static void multiply_panels(const void *argument, int64_t chunk, int thread) {
    (void)thread;
    const struct linear_job *job = argument;
    int64_t first = chunk * job->panels_per_chunk;
    int64_t end = smaller(first + job->panels_per_chunk, count_panels(job->call->num_out));
    int64_t row_bytes = job->num_blocks * (int64_t)sizeof(struct rounded_block);
    int64_t tile = TILE_BYTES / row_bytes / ROWS * ROWS;
    if (tile < ROWS) tile = ROWS;
    for (int64_t start = 0; start < job->num_tokens; start += tile)
        for (int64_t p = first; p < end; p++)
            for (int64_t token = start; token < smaller(start + tile, job->num_tokens); token += ROWS)
                multiply_some_rows(job, token, p, smaller(job->num_tokens - token, ROWS));
}

EXPORT void linear(const struct linear_call *call, int64_t num_tokens) {
    if (num_tokens == 0) return;
    int64_t num_panels = count_panels(call->num_out);
    int64_t chunks = num_tokens * call->num_in * call->num_out < SERIAL_PRODUCTS ? 1 : CHUNKS_PER_THREAD * num_threads();
    struct linear_job job = {.call = call, .num_tokens = num_tokens, .num_blocks = count_blocks(call->num_in),
                             .panels_per_chunk = (num_panels + chunks - 1) / chunks};
    run_rows(round_tokens, &job, num_tokens, call->num_in);
    run_chunks(multiply_panels, &job, (num_panels + job.panels_per_chunk - 1) / job.panels_per_chunk);
}

/* Of a row of weights the integers and the scale of one block, turned as inputs are, into output o of a panel. Both sides were turned:
   the product is BLOCK times too large. */
static void pack_block(const float *weights, int64_t size, struct panel_block *packed, int64_t o) {
    float turned[BLOCK] = {0};
    memcpy(turned, weights, size * sizeof(float));
    turn_block(turned);
    float scale = row_scale(turned, BLOCK, BLOCK_INVERSE_LEVELS);
    int32_t integers[BLOCK];
    for (int i = 0; i < BLOCK; i++) integers[i] = round_to_int(turned[i] / scale);
    for (int i = 0; i < BLOCK; i++) packed->weights[place_in_panel(o, i)] = (uint8_t)(integers[i] + WEIGHT_OFFSET);
    packed->scales[o] = scale / BLOCK;
}

/* Weights [O, I] into panels. Of outputs that the last panel has beyond O nobody looks at the sums: their scales are zero. */
EXPORT void pack_panels(const float *weights, struct panel_block *panels, int64_t num_out, int64_t num_in) {
    int64_t num_blocks = count_blocks(num_in);
    memset(panels + num_out / PANEL * num_blocks, 0, panels_bytes(num_out % PANEL, num_in));
    for (int64_t out = 0; out < num_out; out++)
        for (int64_t block = 0; block < num_blocks; block++)
            pack_block(weights + out * num_in + block * BLOCK, smaller(num_in - block * BLOCK, BLOCK),
                       panels + out / PANEL * num_blocks + block, out % PANEL);
}
