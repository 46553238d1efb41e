/* The parts that linears of all weight formats share: the call, and the division of its work. A format (linear.c,
   linear_four_bit.c) passes its functions to run_linear. */
#ifndef PAGODA_LINEAR_TILES_H
#define PAGODA_LINEAR_TILES_H

#include <stdint.h>
#include <string.h>

#include "layout.h"

#define LINEAR_CALL(FIELD)                                                           \
    FIELD(const float *, x) /* [T, I] */                                             \
    FIELD(const void *, panels) /* [panels, G], a kind of its own for each format */ \
    FIELD(const float *, bias) /* [O], or NULL */                                    \
    FIELD(float *, y) /* [T, O] */                                                   \
    FIELD(void *, rows) /* scratch [T, G]: the input's blocks, rounded */            \
    FIELD(int64_t, num_in)                                                           \
    FIELD(int64_t, num_out)
SHARED_STRUCT(linear_call, LINEAR_CALL);

struct linear_format {
    int64_t panel, rows_at_once;                /* outputs and rows that are multiplied together, at most */
    int64_t (*bytes_per_token)(int64_t num_in); /* of call->rows */
    void (*round_tokens)(const void *call, int64_t first, int64_t end);
    void (*multiply)(const struct linear_call *call, int64_t token, int64_t p, int64_t num_rows); /* with panel p */
};

/* Multiply rows with panels, in tiles of rows that stay in a core's cache. */
void multiply_tiles(const struct linear_format *format, const struct linear_call *call, int64_t first_row, int64_t end_row,
                    int64_t first_panel, int64_t end_panel);
void add_bias(float *restrict y, const float *bias, int64_t size);
void run_linear(const struct linear_format *format, const struct linear_call *call, int64_t num_tokens);

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Store a row's outputs of panel p; the last panel may have fewer. */
static inline void store_outputs(const struct linear_call *call, int64_t token, int64_t p, int64_t panel, const float *totals) {
    int64_t size = smaller(call->num_out - p * panel, panel);
    float *y = call->y + token * call->num_out + p * panel;
    if (size == panel) memcpy(y, totals, panel * sizeof(float)); /* The compiler knows this size. */
    else memcpy(y, totals, size * sizeof(float));
    if (call->bias) add_bias(y, call->bias + p * panel, size);
}

#endif
