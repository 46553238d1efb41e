/* Linear: rows rounded to integers, their exact products with an int8 matrix, and the scales. The twin is in integer.py.

   The twin multiplies the high and the low part of each activation, rounds both sums to float32, and adds 128 * high + low. Where
   the matrix allows it (panels.c) one product of whole activations gives the same float; else the parts are two rows here too,
   high then low. A row in scratch memory begins with the number at which its sums start. */
#include "panels.h"
#include "pool.h"

#include <stddef.h>

enum { CHUNKS_PER_THREAD = 6, START = sizeof(int32_t) / sizeof(activation), ALWAYS_WHOLE_IN = 2064 };

static const float ACTIVATION_INVERSE_LEVELS = 1.0f / 8192, LOW_PART = 128;
static const int64_t SERIAL_PRODUCTS = 1 << 17;
/* Of panels that rows take turns with, in half of the smallest level-2 cache. */
static const int64_t TILE_BYTES = 128 << 10;
/* The processor's own prefetching ends with each page. Decoding 1, 4 and 8 sequences on Zen 3, one thread, huge pages: 7.0, 7.9 and
   15.0 ms with 2 KiB, 7.7, 10.2 and 17.3 without, 8.3, 7.8 and 15.0 with 4 KiB. */
enum { PREFETCHED_BYTES = 2048 };

static int64_t row_size(int64_t num_in) { return START + padded_inputs(num_in); }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Of scratch memory for each token, in 16-bit numbers. */
EXPORT int64_t linear_scratch(int64_t num_in) {
    int64_t most_parts = num_in <= ALWAYS_WHOLE_IN ? FEWEST_PARTS : 2;
    return most_parts * row_size(num_in) * (int64_t)sizeof(activation) / (int64_t)sizeof(int16_t);
}

struct linear_call {
    const float *x; /* [T, I] */
    const struct matrix *matrix;
    const float *weight_scales, *bias; /* [O]; the bias may be missing */
    float *y;                          /* [T, O] */
    activation *rows;                  /* scratch [T * parts, row_size] */
    float *scales;                     /* scratch [T] */
    int64_t num_in, num_out;
};

struct linear_job {
    const struct linear_call *call;
    int64_t num_tokens, panels_per_chunk;
};

INLINE void round_whole(const float *x, int64_t num_in, float scale, activation *restrict whole) {
    for (int64_t i = 0; i < num_in; i++) whole[i] = (activation)round_to_int(x[i] / scale);
}

INLINE void round_parts(const float *x, int64_t num_in, float scale, activation *restrict high, activation *restrict low) {
    for (int64_t i = 0; i < num_in; i++) {
        int32_t whole = round_to_int(x[i] / scale), high_part = round_to_int((float)whole * (1 / LOW_PART));
        high[i] = (activation)high_part;
        low[i] = (activation)(whole - high_part * (int32_t)LOW_PART);
    }
}

static void complete_row(activation *row, int64_t num_in) {
    int32_t excess[LANES];
    vector sums = zeros();
    for (int64_t i = num_in; i < padded_inputs(num_in); i++) row[START + i] = 0;
    for (int64_t i = 0; i < num_in; i += 4) sums = add_quads(sums, repeat_activations(row + START + i), zero_weights());
    store_sums(excess, sums);
    excess[0] = (int32_t)-(uint32_t)excess[0];
    memcpy(row, excess, sizeof excess[0]);
}

static void round_tokens(const void *argument, int64_t first, int64_t end) {
    const struct linear_call *call = argument;
    int64_t num_parts = call->matrix->num_parts, size = row_size(call->num_in);
    for (int64_t token = first; token < end; token++) {
        const float *x = call->x + token * call->num_in;
        activation *row = call->rows + token * num_parts * size;
        float scale = call->scales[token] = row_scale(x, call->num_in, ACTIVATION_INVERSE_LEVELS);
        if (num_parts == 1) round_whole(x, call->num_in, scale, row + START);
        else round_parts(x, call->num_in, scale, row + START, row + size + START);
        for (int64_t part = 0; part < num_parts; part++) complete_row(row + part * size, call->num_in);
    }
}

/* A few rows times one panel, and where the results go. */
struct block {
    const activation *rows;
    const int8_t *panel;
    int64_t num_in, num_parts, y_stride;
    const float *scales, *weight_scales, *bias;
    float *y;
};

INLINE void finish_token(const struct block *block, int64_t token, const vector *high, const vector *low) {
    for (int v = 0; v < VECTORS; v++) {
        floats whole = low ? to_floats(low[v]) + to_floats(high[v]) * LOW_PART : to_floats(high[v]);
        floats y = whole * block->scales[token] * load_floats(block->weight_scales + v * LANES);
        if (block->bias) y += load_floats(block->bias + v * LANES);
        store_floats(block->y + token * block->y_stride + v * LANES, y);
    }
}

INLINE void start_sums(const struct block *block, int num_rows, vector sums[ROWS][VECTORS]) {
    for (int r = 0; r < num_rows; r++) {
        int32_t start;
        memcpy(&start, block->rows + r * row_size(block->num_in), sizeof start);
        for (int v = 0; v < VECTORS; v++)
            sums[r][v] = add_sums(load_sums((const int32_t *)block->panel + v * LANES), repeat_sum(start));
    }
}

INLINE void multiply_rows(const struct block *block, int num_rows) {
    vector sums[ROWS][VECTORS];
    start_sums(block, num_rows, sums);
    int64_t size = row_size(block->num_in);
    const int8_t *group = block->panel + PANEL * sizeof(int32_t);
    const activation *x = block->rows + START, *end = x + block->num_in;
    for (; x < end; x += 4, group += 4 * PANEL) {
        quad weights[VECTORS];
        __builtin_prefetch(group + PREFETCHED_BYTES, 0, 2);
        for (int v = 0; v < VECTORS; v++) weights[v] = load_weights(group, v);
        for (int r = 0; r < num_rows; r++) {
            quad repeated = repeat_activations(x + r * size);
            for (int v = 0; v < VECTORS; v++) sums[r][v] = add_quads(sums[r][v], repeated, weights[v]);
        }
    }
    if (FEWEST_PARTS == 1 && block->num_parts == 1)
        for (int r = 0; r < num_rows; r++) finish_token(block, r, sums[r], NULL);
    else
        for (int r = 0; r + 1 < num_rows; r += 2) finish_token(block, r / 2, sums[r], sums[r + 1]);
}

/* The number of rows is a constant in each call, so that their sums stay in registers; and nothing around it wants some too. */
APART static void multiply_block(const struct block *block, int64_t num_rows) {
    switch (num_rows) {
        case FEWEST_PARTS: multiply_rows(block, FEWEST_PARTS); break;
        case 2 * FEWEST_PARTS: multiply_rows(block, 2 * FEWEST_PARTS); break;
        case 3 * FEWEST_PARTS: multiply_rows(block, 3 * FEWEST_PARTS); break;
        default: multiply_rows(block, ROWS);
    }
}

/* With memory of its own for the outputs that are not there. */
static void multiply_last_block(const struct block *block, int64_t num_rows, size_t num_out) {
    float weight_scales[PANEL] = {0}, bias[PANEL] = {0}, y[ROWS][PANEL];
    struct block padded = *block;
    memcpy(weight_scales, block->weight_scales, num_out * sizeof(float));
    padded.weight_scales = weight_scales, padded.y = y[0], padded.y_stride = PANEL;
    if (block->bias) padded.bias = memcpy(bias, block->bias, num_out * sizeof(float));
    multiply_block(&padded, num_rows);
    for (int64_t token = 0; token < num_rows / block->num_parts; token++)
        memcpy(block->y + token * block->y_stride, y[token], num_out * sizeof(float));
}

static void multiply_panel(const struct linear_call *call, int64_t row, int64_t num_rows, int64_t panel) {
    int64_t num_parts = call->matrix->num_parts, token = row / num_parts, out = panel * PANEL;
    struct block block = {
        .rows = call->rows + row * row_size(call->num_in),
        .panel = call->matrix->panels + panel * panel_bytes(call->num_in),
        .num_in = call->num_in,
        .num_parts = num_parts,
        .y_stride = call->num_out,
        .scales = call->scales + token,
        .weight_scales = call->weight_scales + out,
        .bias = call->bias ? call->bias + out : NULL,
        .y = call->y + token * call->num_out + out,
    };
    if (call->num_out - out >= PANEL) multiply_block(&block, num_rows);
    else multiply_last_block(&block, num_rows, (size_t)(call->num_out - out));
}

static void multiply_panels(const void *argument, int64_t chunk, int thread) {
    (void)thread;
    const struct linear_job *job = argument;
    const struct linear_call *call = job->call;
    int64_t tile = 1 + TILE_BYTES / panel_bytes(call->num_in), num_rows = job->num_tokens * call->matrix->num_parts;
    int64_t first = chunk * job->panels_per_chunk;
    int64_t end = smaller(first + job->panels_per_chunk, count_panels(call->num_out));
    for (; first < end; first += tile)
        for (int64_t row = 0; row < num_rows; row += ROWS)
            for (int64_t panel = first; panel < smaller(first + tile, end); panel++)
                multiply_panel(call, row, smaller(num_rows - row, ROWS), panel);
}

EXPORT void linear(const struct linear_call *call, int64_t num_tokens) {
    if (num_tokens == 0) return;
    int64_t num_panels = count_panels(call->num_out);
    int64_t chunks = num_tokens * call->num_in * call->num_out < SERIAL_PRODUCTS ? 1 : CHUNKS_PER_THREAD * num_threads();
    struct linear_job job = {call, num_tokens, (num_panels + chunks - 1) / chunks};
    run_rows(round_tokens, call, num_tokens, call->num_in);
    run_chunks(multiply_panels, &job, (num_panels + job.panels_per_chunk - 1) / job.panels_per_chunk);
}
