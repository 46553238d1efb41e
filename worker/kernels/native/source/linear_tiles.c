/* Division of a linear's panels among threads, and of its rows into tiles. The format decides what a panel holds. */
#include "linear_tiles.h"

#include "pool.h"

EXPORT_LAYOUT(linear_call, LINEAR_CALL)

enum { CHUNKS_PER_THREAD = 6 };
static const int64_t SERIAL_PRODUCTS = 1 << 17;
/* The size of the rows of a tile, which stay in a core's second-level cache while panels are read. */
static const int64_t TILE_BYTES = 160 << 10;

struct linear_job {
    const struct linear_format *format;
    const struct linear_call *call;
    int64_t num_tokens, num_panels, panels_per_chunk;
};

void multiply_tiles(const struct linear_format *format, const struct linear_call *call, int64_t first_row, int64_t end_row,
                    int64_t first_panel, int64_t end_panel) {
    int64_t at_once = format->rows_at_once;
    int64_t tile = TILE_BYTES / format->bytes_per_token(call->num_in) / at_once * at_once;
    if (tile < at_once) tile = at_once;
    for (int64_t start = first_row; start < end_row; start += tile)
        for (int64_t p = first_panel; p < end_panel; p++)
            for (int64_t row = start, end = smaller(start + tile, end_row); row < end; row += at_once)
                format->multiply(call, row, p, smaller(end - row, at_once));
}

static void multiply_panels(const void *argument, int64_t chunk, int thread) {
    (void)thread;
    const struct linear_job *job = argument;
    int64_t first = chunk * job->panels_per_chunk;
    multiply_tiles(job->format, job->call, 0, job->num_tokens, first, smaller(first + job->panels_per_chunk, job->num_panels));
}

void add_bias(float *restrict y, const float *bias, int64_t size) {
    for (int64_t o = 0; o < size; o++) y[o] += bias[o];
}

void run_linear(const struct linear_format *format, const struct linear_call *call, int64_t num_tokens) {
    if (num_tokens == 0) return;
    int64_t num_panels = divide_up(call->num_out, format->panel);
    int64_t chunks = num_tokens * call->num_in * call->num_out < SERIAL_PRODUCTS ? 1 : CHUNKS_PER_THREAD * num_threads();
    struct linear_job job = {.format = format, .call = call, .num_tokens = num_tokens, .num_panels = num_panels,
                             .panels_per_chunk = divide_up(num_panels, chunks)};
    run_rows(format->round_tokens, call, num_tokens, call->num_in);
    run_chunks(multiply_panels, &job, divide_up(num_panels, job.panels_per_chunk));
}
