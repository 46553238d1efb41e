/* Linear: rows rounded to integers, their exact products with an int8 matrix, and the scales. The twin is in integer.py.

   The twin multiplies the high and the low part of each activation, rounds both sums to float32, and adds 128 * high + low. Up
   to SHORT_INNER inputs neither sum needs rounding and the whole fits 32 bits, so there one product of whole activations gives
   the same float; longer rows are two rows here too, high then low.

   The matrix lies in panels of PANEL outputs: for each pair of inputs, the pairs of all outputs of the panel. So a sum stays in
   its lane, and the panel is read once for ROWS rows. */
#include "arithmetic.h"
#include "pool.h"
#include "vector.h"

/* On Zen 3, 4 rows of 2 vectors multiply 70 G/s a core; 4 of 3, 6 of 2 and 5 of 2, which spill or leave no register free, 43 to 52. */
#if LANES == 16
enum { ROWS = 8 };
#else
enum { ROWS = 4 };
#endif
enum { VECTORS = 2, PANEL = VECTORS * LANES, SHORT_INNER = 2064, CHUNKS_PER_THREAD = 6 };

static const float ACTIVATION_INVERSE_LEVELS = 1.0f / 8192, LOW_PART = 128;
static const int64_t SERIAL_PRODUCTS = 1 << 17;

EXPORT int64_t panel_width(void) { return PANEL; }

/* Rows of scratch memory for each token. */
EXPORT int64_t linear_parts(int64_t num_in) { return num_in <= SHORT_INNER ? 1 : 2; }

struct linear_call {
    const float *x; /* [T, I] */
    const int8_t *panels;
    const float *weight_scales, *bias; /* [O]; the bias may be missing */
    float *y;                          /* [T, O] */
    int16_t *integers;                 /* scratch [T * parts, padded I] */
    float *scales;                     /* scratch [T] */
    int64_t num_in, num_out;
};

/* A call and what follows from it. */
struct linear_job {
    const struct linear_call *call;
    int64_t num_tokens, padded_in, panels_per_chunk;
    int num_parts;
};

static void round_tokens(const void *argument, int64_t first, int64_t end) {
    const struct linear_job *job = argument;
    const struct linear_call *call = job->call;
    for (int64_t token = first; token < end; token++) {
        const float *x = call->x + token * call->num_in;
        int16_t *restrict high = call->integers + token * job->num_parts * job->padded_in;
        float scale = call->scales[token] = row_scale(x, call->num_in, ACTIVATION_INVERSE_LEVELS);
        for (int64_t i = 0; i < call->num_in; i++) high[i] = (int16_t)round_to_int(x[i] / scale);
        for (int64_t i = call->num_in; i < job->padded_in; i++) high[i] = 0;
        if (job->num_parts == 2) {
            int16_t *restrict low = high + job->padded_in;
            for (int64_t i = 0; i < job->padded_in; i++) {
                int32_t whole = high[i], high_part = round_to_int((float)whole * (1 / LOW_PART));
                high[i] = (int16_t)high_part;
                low[i] = (int16_t)(whole - high_part * (int32_t)LOW_PART);
            }
        }
    }
}

INLINE void multiply_rows(const int16_t *x, int64_t padded_in, const int8_t *panel, int num_rows,
                          int32_t sums[ROWS][PANEL]) {
    vector totals[ROWS][VECTORS];
    for (int row = 0; row < num_rows; row++)
        for (int v = 0; v < VECTORS; v++) totals[row][v] = zeros();
    for (int64_t i = 0; i < padded_in; i += 2) {
        vector weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) weights[v] = load_widened(panel + i * PANEL + v * 2 * LANES);
        for (int row = 0; row < num_rows; row++) {
            vector pair = repeat_pair(x + row * padded_in + i);
            for (int v = 0; v < VECTORS; v++) totals[row][v] = add_pairs(totals[row][v], pair, weights[v]);
        }
    }
    for (int row = 0; row < num_rows; row++)
        for (int v = 0; v < VECTORS; v++) store_sums(&sums[row][v * LANES], totals[row][v]);
}

/* The number of rows is a constant in each call, so that their sums stay in registers. */
static void multiply_some_rows(const int16_t *x, int64_t padded_in, const int8_t *panel, int num_rows,
                               int32_t sums[ROWS][PANEL]) {
    switch (num_rows) {
        case 1: multiply_rows(x, padded_in, panel, 1, sums); break;
        case 2: multiply_rows(x, padded_in, panel, 2, sums); break;
        case 3: multiply_rows(x, padded_in, panel, 3, sums); break;
#if LANES == 16
        case 4: multiply_rows(x, padded_in, panel, 4, sums); break;
        case 5: multiply_rows(x, padded_in, panel, 5, sums); break;
        case 6: multiply_rows(x, padded_in, panel, 6, sums); break;
        case 7: multiply_rows(x, padded_in, panel, 7, sums); break;
#endif
        default: multiply_rows(x, padded_in, panel, ROWS, sums);
    }
}

INLINE void finish_token(const struct linear_job *job, const int32_t *sums, int64_t token, int64_t first_out) {
    const struct linear_call *call = job->call;
    int64_t size = call->num_out - first_out < PANEL ? call->num_out - first_out : PANEL;
    const float *weight_scales = call->weight_scales + first_out;
    float *restrict y = call->y + token * call->num_out + first_out;
    float scale = call->scales[token], whole[PANEL];
    if (job->num_parts == 1)
        for (int o = 0; o < PANEL; o++) whole[o] = (float)sums[o];
    else
        for (int o = 0; o < PANEL; o++) whole[o] = (float)sums[PANEL + o] + (float)sums[o] * LOW_PART;
    if (call->bias)
        for (int64_t o = 0; o < size; o++) y[o] = whole[o] * scale * weight_scales[o] + call->bias[first_out + o];
    else
        for (int64_t o = 0; o < size; o++) y[o] = whole[o] * scale * weight_scales[o];
}

static void multiply_panels(const void *argument, int64_t chunk, int thread) {
    (void)thread;
    const struct linear_job *job = argument;
    const struct linear_call *call = job->call;
    int64_t num_panels = (call->num_out + PANEL - 1) / PANEL, num_rows = job->num_tokens * job->num_parts;
    int64_t first = chunk * job->panels_per_chunk, end = first + job->panels_per_chunk;
    for (int64_t p = first; p < end && p < num_panels; p++) {
        for (int64_t row = 0; row < num_rows; row += ROWS) {
            int32_t sums[ROWS][PANEL];
            int some = num_rows - row < ROWS ? (int)(num_rows - row) : ROWS;
            const int8_t *panel = call->panels + p * PANEL * job->padded_in;
            multiply_some_rows(call->integers + row * job->padded_in, job->padded_in, panel, some, sums);
            for (int r = 0; r < some; r += job->num_parts)
                finish_token(job, sums[r], (row + r) / job->num_parts, p * PANEL);
        }
    }
}

EXPORT void linear(const struct linear_call *call, int64_t num_tokens) {
    struct linear_job job = {.call = call, .num_tokens = num_tokens, .padded_in = call->num_in + call->num_in % 2,
                             .num_parts = (int)linear_parts(call->num_in)};
    if (num_tokens == 0) return;
    int64_t num_panels = (call->num_out + PANEL - 1) / PANEL;
    int64_t chunks = num_tokens * call->num_in * call->num_out < SERIAL_PRODUCTS ? 1 : CHUNKS_PER_THREAD * num_threads();
    job.panels_per_chunk = (num_panels + chunks - 1) / chunks;
    run_rows(round_tokens, &job, num_tokens, call->num_in);
    run_chunks(multiply_panels, &job, (num_panels + job.panels_per_chunk - 1) / job.panels_per_chunk);
}

/* int8 [O, I] into panels, padded with zeros. */
EXPORT void pack_panels(const int8_t *weights, int8_t *panels, int64_t num_out, int64_t num_in) {
    int64_t padded_in = num_in + num_in % 2, num_panels = (num_out + PANEL - 1) / PANEL;
    for (int64_t p = 0; p < num_panels; p++)
        for (int64_t o = 0; o < PANEL; o++)
            for (int64_t i = 0; i < padded_in; i++) {
                int64_t row = p * PANEL + o;
                int8_t weight = row < num_out && i < num_in ? weights[row * num_in + i] : 0;
                panels[p * PANEL * padded_in + (i / 2) * 2 * PANEL + o * 2 + i % 2] = weight;
            }
}
