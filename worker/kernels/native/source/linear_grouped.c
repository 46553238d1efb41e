/* The grouped formats (grouped.h) as formats of a linear: rounding of inputs, products with a panel, and packing. */
#include "grouped.h"
#include "linear_tiles.h"
#include "pool.h"

static const float INVERSE_LEVELS = 1.0f / 127;
/* A block is outstanding if its scale is this many times the mean of its row's scales. */
enum { OUTSTANDING = 4 };
#define GROUPED_PACK_CALL(FIELD)                                                        \
    FIELD(const struct linear_format *, format)                                         \
    FIELD(const uint8_t *, file) /* [rows of the file, bytes of a row] */               \
    FIELD(const int64_t *, row_order) /* [O]: the file's row of each output, or NULL */ \
    FIELD(uint8_t *, panels)                                                            \
    FIELD(int64_t, num_in)                                                              \
    FIELD(int64_t, num_out)
SHARED_STRUCT(grouped_pack_call, GROUPED_PACK_CALL);
EXPORT_LAYOUT(grouped_pack_call, GROUPED_PACK_CALL)

static void round_block(const float *x, struct rounded_block *rounded) {
    float scale = rounded->scale = row_scale(x, BLOCK, INVERSE_LEVELS);
    for (int half = 0; half < 2; half++) {
        int32_t sum = 0;
        for (int i = half * BLOCK / 2; i < (half + 1) * BLOCK / 2; i++) {
            int32_t integer = round_to_int(x[i] / scale);
            rounded->x[i] = (int8_t)integer;
            sum += integer;
        }
        rounded->half_sums[half] = sum;
        rounded->half_offsets[half] = (float)sum * scale;
    }
    rounded->sum = rounded->half_sums[0] + rounded->half_sums[1];
    rounded->offset = (float)rounded->sum * scale;
}

/* Return how many blocks a rounded row takes: its own, then the remainders of its outstanding ones, then an end. Fewer than
   1 / OUTSTANDING of numbers are above OUTSTANDING times their mean; one more allows for rounding. */
static int64_t row_blocks(int64_t num_in) { return num_in / BLOCK + num_in / BLOCK / OUTSTANDING + 2; }

static int64_t row_bytes(int64_t num_in) { return row_blocks(num_in) * sizeof(struct rounded_block); }

/* Return a block of a token's inputs in the order of the weights. `ordered` is memory for it. */
static const float *inputs_of(const struct linear_call *call, int64_t token, int64_t block, float *ordered) {
    const float *x = call->x + token * call->num_in;
    if (!call->input_order) return x + block * BLOCK;
    for (int i = 0; i < BLOCK; i++) ordered[i] = x[call->input_order[block * BLOCK + i]];
    return ordered;
}

static void round_remainder(const float *x, const struct rounded_block *rounded, struct rounded_block *remainder) {
    float rest[BLOCK];
    for (int i = 0; i < BLOCK; i++) rest[i] = x[i] - (float)rounded->x[i] * rounded->scale;
    round_block(rest, remainder);
}

static void round_tokens(const void *argument, int64_t first, int64_t end) {
    const struct linear_call *call = argument;
    int64_t num_blocks = call->num_in / BLOCK;
    for (int64_t token = first; token < end; token++) {
        struct rounded_block *row = (struct rounded_block *)call->rows + token * row_blocks(call->num_in);
        struct rounded_block *next = row + num_blocks;
        float ordered[BLOCK], total = 0;
        for (int64_t block = 0; block < num_blocks; block++) {
            round_block(inputs_of(call, token, block, ordered), row + block);
            total += row[block].scale;
        }
        float limit = total * (float)((double)OUTSTANDING / (double)num_blocks);
        for (int64_t block = 0; block < num_blocks; block++) {
            if (!(row[block].scale > limit)) continue;
            round_remainder(inputs_of(call, token, block, ordered), row + block, next);
            next++->place = (int32_t)block;
        }
        next->place = (int32_t)num_blocks;
    }
}

static int64_t panel_bytes(const struct linear_format *format, int64_t num_in) {
    return num_in / format->grouped->span * format->grouped->span_bytes();
}

/* Multiply the remainders, block by block: each block of the panel with those rows where it is outstanding. */
static void multiply_remainders(const struct grouped_format *format, const uint8_t *panel, int64_t num_blocks,
                                const struct rounded_block **next, int64_t num_rows, float *const *totals) {
    for (;;) {
        const struct rounded_block *rows[ROWS_AT_ONCE];
        float *their_totals[ROWS_AT_ONCE];
        int64_t count = 0, place = num_blocks;
        for (int64_t i = 0; i < num_rows; i++) place = smaller(place, next[i]->place);
        if (place == num_blocks) return;
        for (int64_t i = 0; i < num_rows; i++)
            if (next[i]->place == place) rows[count] = next[i]++, their_totals[count++] = totals[i];
        format->multiply(panel, place, 1, rows, count, their_totals);
    }
}

static void multiply(const struct linear_format *format, const struct linear_call *call, int64_t token, int64_t p,
                     int64_t num_rows) {
    const struct rounded_block *rows[ROWS_AT_ONCE];
    float totals[ROWS_AT_ONCE][PANEL] = {0}, *their_totals[ROWS_AT_ONCE];
    int64_t num_blocks = call->num_in / BLOCK;
    for (int64_t i = 0; i < num_rows; i++) {
        rows[i] = (const struct rounded_block *)call->rows + (token + i) * row_blocks(call->num_in);
        their_totals[i] = totals[i];
    }
    const uint8_t *panel = (const uint8_t *)call->panels + p * panel_bytes(format, call->num_in);
    format->grouped->multiply(panel, 0, num_blocks, rows, num_rows, their_totals);
    for (int64_t i = 0; i < num_rows; i++) rows[i] += num_blocks;
    multiply_remainders(format->grouped, panel, num_blocks, rows, num_rows, their_totals);
    for (int64_t i = 0; i < num_rows; i++) store_outputs(call, token + i, p, PANEL, totals[i]);
}

#define FORMAT(GROUPED) {PANEL, ROWS_AT_ONCE, row_bytes, panel_bytes, round_tokens, multiply, &GROUPED}
static const struct linear_format FORMATS[] = {
    FORMAT(Q4_0), FORMAT(Q4_1), FORMAT(Q4_K), FORMAT(IQ4_NL), FORMAT(IQ4_XS), FORMAT(Q5_0),       FORMAT(Q5_1),
    FORMAT(Q5_K), FORMAT(Q6_K), FORMAT(Q8_0), FORMAT(Q2_K),   FORMAT(Q3_K),   FORMAT(UNPACKED_4), FORMAT(UNPACKED_8),
    FORMAT(HALF_ZERO_4_32), FORMAT(HALF_ZERO_4_64), FORMAT(HALF_ZERO_4_128), FORMAT(FLOAT_ZERO_4_32),
};

/* Return the format with this name, or NULL. */
EXPORT const struct linear_format *find_grouped_format(const char *name) {
    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (strcmp(FORMATS[i].grouped->name, name) == 0) return FORMATS + i;
    return NULL;
}

static void pack_panel(const void *argument, int64_t p, int thread) {
    (void)thread;
    const struct grouped_pack_call *call = argument;
    const struct grouped_format *format = call->format->grouped;
    int64_t num_spans = call->num_in / format->span, size = smaller(call->num_out - p * PANEL, PANEL);
    uint8_t *panel = call->panels + p * panel_bytes(call->format, call->num_in);
    memset(panel, 0, panel_bytes(call->format, call->num_in));
    for (int64_t span = 0; span < num_spans; span++)
        for (int64_t o = 0; o < size; o++) {
            int64_t row = call->row_order ? call->row_order[p * PANEL + o] : p * PANEL + o;
            format->pack(call->file + (row * num_spans + span) * format->file_bytes, panel + span * format->span_bytes(), o);
        }
}

/* Pack a matrix, on all threads. In the last panel, outputs beyond num_out are zero, and their sums are not used. */
EXPORT void pack_grouped(const struct grouped_pack_call *call) {
    run_chunks(pack_panel, call, divide_up(call->num_out, PANEL));
}

void unpack_grouped_row(const struct linear_format *format, const uint8_t *panels, int64_t o, int64_t num_in,
                        float *weights) {
    const struct grouped_format *grouped = format->grouped;
    const uint8_t *panel = panels + o / PANEL * panel_bytes(format, num_in);
    for (int64_t span = 0; span < num_in / grouped->span; span++)
        grouped->unpack(panel + span * grouped->span_bytes(), o % PANEL, weights + span * grouped->span);
}
