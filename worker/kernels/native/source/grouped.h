/* Linears whose weights are integers in groups of 16 or 32 inputs, with factors for each group, as in the model's file.

   A weight is scale * integer, or scale * integer + minimum. Inputs are rounded to bytes with one scale for each BLOCK of them,
   in one form for all formats, and outstanding blocks are rounded twice. The reference implementation in torch and the budgets
   of bits are in ../../grouped.py.

   A format stores a matrix in panels of PANEL outputs, which multiply reads from start to end. A panel is a sequence of spans of
   32 or 256 inputs: the factors of the span, then its integers. */
#ifndef PAGODA_GROUPED_H
#define PAGODA_GROUPED_H

#include "layout.h"
#include "vector.h"

enum { BLOCK = 32, LONGEST_SPAN = 256, VECTORS = 2, PANEL = VECTORS * LANES };

/* A token's block of inputs. One cache line. */
struct rounded_block {
    float scale;
    float offset, half_offsets[2]; /* the sums below, times the scale */
    int32_t sum, half_sums[2];     /* of the integers, and of the first 16 and the last 16 */
    int32_t place;                 /* of a remainder: its block in the row; of the end of the remainders: the number of blocks */
    int8_t x[BLOCK];
};

struct grouped_format {
    const char *name;
    int64_t span, file_bytes;    /* inputs of a span, and its bytes in the file, of one output */
    int64_t (*span_bytes)(void); /* its bytes in a panel */
    /* Pack a span of the panel's output o from the file. The memory of the panel must be zero before. */
    void (*pack)(const uint8_t *file, uint8_t *span, int64_t o);
    /* Compute the weights of a span of the panel's output o. */
    void (*unpack)(const uint8_t *span, int64_t o, float *weights);
    /* Multiply `count` blocks of a panel with those of at most ROWS_AT_ONCE rows, and add the products to each row's PANEL
       totals. */
    void (*multiply)(const uint8_t *panel, int64_t first, int64_t count, const struct rounded_block *const *rows,
                     int64_t num_rows, float *const *totals);
};

#if LANES == 16
/* 8 rows of 2 vectors have 16 sums, which leaves registers for the weights; totals are in memory. */
enum { ROWS_AT_ONCE = 8 };
#else
enum { ROWS_AT_ONCE = 4 };
#endif

struct linear_format;

/* Compute the weights of output o, as floats with the bits of dequantize.py. */
EXPORT void unpack_grouped_row(const struct linear_format *format, const uint8_t *panels, int64_t o, int64_t num_in,
                               float *weights);

extern const struct grouped_format Q4_0, Q4_1, Q4_K, IQ4_NL, IQ4_XS, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, Q2_K, Q3_K;
/* Weights of four bits, with a scale and a zero for each 32, 64 or 128 inputs. */
extern const struct grouped_format HALF_ZERO_4_32, HALF_ZERO_4_64, HALF_ZERO_4_128, FLOAT_ZERO_4_32;
/* Any weights of four bits or of bytes, with a scale and a minimum in float32 for each 32 inputs. */
extern const struct grouped_format UNPACKED_4, UNPACKED_8;

#endif
