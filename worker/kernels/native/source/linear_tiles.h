/* The parts that linears of all weight formats share: a product with one matrix, and the division of its work into tiles. */
#ifndef PAGODA_LINEAR_TILES_H
#define PAGODA_LINEAR_TILES_H

#include <stdint.h>
#include <string.h>

#include "layout.h"

struct grouped_format;

/* Each thread gets several chunks of the panels, because threads are not equally fast. */
enum { CHUNKS_PER_THREAD = 6 };
/* Fewer products than this are computed by one thread, since waking the others would take longer. */
static const int64_t SERIAL_PRODUCTS = 1 << 17;

struct linear_call {
    const float *x;     /* [T, I] */
    const void *panels; /* [panels, G], a kind of its own for each format */
    const float *bias;  /* [O], or NULL */
    float *y;           /* [T, y_stride] */
    void *rows;         /* scratch [T, G]: the input's blocks, rounded */
    const int64_t *input_order; /* [I]: the inputs in the order of the weights, or NULL; only for grouped formats */
    int64_t num_in, num_out, y_stride;
};

struct linear_format {
    int64_t panel, rows_at_once;                /* outputs and rows that are multiplied together, at most */
    int64_t (*bytes_per_token)(int64_t num_in); /* of call->rows */
    int64_t (*panel_bytes)(const struct linear_format *format, int64_t num_in);
    void (*round_tokens)(const void *call, int64_t first, int64_t end);
    /* Multiply rows with panel p. */
    void (*multiply)(const struct linear_format *format, const struct linear_call *call, int64_t token, int64_t p,
                     int64_t num_rows);
    const struct grouped_format *grouped; /* NULL for Hadamard-rotated bytes */
};

/* Multiply rows with panels, in tiles of rows that stay in a core's cache. */
void multiply_tiles(const struct linear_format *format, const struct linear_call *call, int64_t first_row, int64_t end_row,
                    int64_t first_panel, int64_t end_panel);

/* Store a row's outputs of panel p; the last panel may have fewer. */
void store_outputs(const struct linear_call *call, int64_t token, int64_t p, int64_t panel, const float *totals);

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

#endif
