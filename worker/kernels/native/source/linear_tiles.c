/* A linear: one or more matrices that read the same input, which is rounded once. Panels are divided among threads, and rows into
   tiles. The format of a matrix decides what its panels hold. */
#include "linear_tiles.h"

#include "pool.h"

/* The size of the rows of a tile, which stay in a core's second-level cache while panels are read. */
static const int64_t TILE_BYTES = 160 << 10;

#define LINEAR_SEGMENT(FIELD)                   \
    FIELD(const struct linear_format *, format) \
    FIELD(const void *, panels)                 \
    FIELD(int64_t, first_out) /* of all outputs of the linear */ \
    FIELD(int64_t, num_out)
SHARED_STRUCT(linear_segment, LINEAR_SEGMENT);
EXPORT_LAYOUT(linear_segment, LINEAR_SEGMENT)

#define LINEAR_OF_SEGMENTS_CALL(FIELD)                                      \
    FIELD(const float *, x) /* [T, I] */                                    \
    FIELD(const struct linear_segment *, segments) /* which round alike */  \
    FIELD(const float *, bias) /* [O], or NULL */                           \
    FIELD(float *, y) /* [T, O] */                                          \
    FIELD(void *, rows) /* scratch [T, G]: the input's blocks, rounded */   \
    FIELD(const int64_t *, input_order) /* [I]: the inputs in the order of the weights, or NULL */ \
    FIELD(int64_t, num_segments)                                            \
    FIELD(int64_t, num_in)                                                  \
    FIELD(int64_t, num_out) /* of all segments, and those of other calls */
SHARED_STRUCT(linear_of_segments_call, LINEAR_OF_SEGMENTS_CALL);
EXPORT_LAYOUT(linear_of_segments_call, LINEAR_OF_SEGMENTS_CALL)

struct linear_job {
    const struct linear_of_segments_call *call;
    int64_t num_tokens, panels_per_chunk;
};

void multiply_tiles(const struct linear_format *format, const struct linear_call *call, int64_t first_row, int64_t end_row,
                    int64_t first_panel, int64_t end_panel) {
    int64_t at_once = format->rows_at_once;
    int64_t tile = TILE_BYTES / format->bytes_per_token(call->num_in) / at_once * at_once;
    if (tile < at_once) tile = at_once;
    for (int64_t start = first_row; start < end_row; start += tile)
        for (int64_t p = first_panel; p < end_panel; p++)
            for (int64_t row = start, end = smaller(start + tile, end_row); row < end; row += at_once)
                format->multiply(format, call, row, p, smaller(end - row, at_once));
}

void store_outputs(const struct linear_call *call, int64_t token, int64_t p, int64_t panel, const float *totals) {
    int64_t size = smaller(call->num_out - p * panel, panel);
    float *restrict y = call->y + token * call->y_stride + p * panel;
    memcpy(y, totals, size * sizeof(float));
    if (!call->bias) return;
    const float *bias = call->bias + p * panel;
    for (int64_t o = 0; o < size; o++) y[o] += bias[o];
}

static int64_t count_panels(const struct linear_segment *segment) { return divide_up(segment->num_out, segment->format->panel); }

static struct linear_call segment_call(const struct linear_of_segments_call *call, const struct linear_segment *segment) {
    int64_t first = segment->first_out;
    return (struct linear_call){.x = call->x, .panels = segment->panels, .bias = call->bias ? call->bias + first : NULL,
                                .y = call->y + first, .rows = call->rows, .input_order = call->input_order,
                                .num_in = call->num_in, .num_out = segment->num_out, .y_stride = call->num_out};
}

static void multiply_chunk(const void *argument, int64_t chunk, int thread) {
    (void)thread;
    const struct linear_job *job = argument;
    int64_t first = chunk * job->panels_per_chunk, end = first + job->panels_per_chunk;
    for (int64_t s = 0; s < job->call->num_segments; s++) {
        const struct linear_segment *segment = job->call->segments + s;
        struct linear_call call = segment_call(job->call, segment);
        int64_t num_panels = count_panels(segment);
        multiply_tiles(segment->format, &call, 0, job->num_tokens, first < 0 ? 0 : first, smaller(end, num_panels));
        first -= num_panels, end -= num_panels;
    }
}

EXPORT void linear(const struct linear_of_segments_call *call, int64_t num_tokens) {
    if (num_tokens == 0) return;
    int64_t num_panels = 0, num_out = 0;
    for (int64_t s = 0; s < call->num_segments; s++) {
        num_panels += count_panels(call->segments + s);
        num_out += call->segments[s].num_out;
    }
    int64_t chunks = num_tokens * call->num_in * num_out < SERIAL_PRODUCTS ? 1 : CHUNKS_PER_THREAD * num_threads();
    struct linear_job job = {call, num_tokens, divide_up(num_panels, chunks)};
    struct linear_call inputs = segment_call(call, call->segments);
    run_rows(call->segments->format->round_tokens, &inputs, num_tokens, call->num_in);
    run_chunks(multiply_chunk, &job, divide_up(num_panels, job.panels_per_chunk));
}

/* Return the memory for a matrix, and the scratch memory for each token. */
EXPORT int64_t panels_bytes(const struct linear_format *format, int64_t num_out, int64_t num_in) {
    return divide_up(num_out, format->panel) * format->panel_bytes(format, num_in);
}
EXPORT int64_t scratch_bytes(const struct linear_format *format, int64_t num_in) { return format->bytes_per_token(num_in); }

/* Return True if two formats round inputs alike. */
EXPORT int64_t round_alike(const struct linear_format *a, const struct linear_format *b) {
    return a->round_tokens == b->round_tokens;
}
