/* Formats of four bits. */
#include "grouped_files.h"
#include "grouped_multiply.h"

GROUPED_FORMAT(Q4_0, 32, read_q4_0, 18, {FOUR_BITS, HALF, 8});
GROUPED_FORMAT(Q4_1, 32, read_q4_1, 20, {FOUR_BITS, HALF_PAIR, 0});
GROUPED_FORMAT(Q4_K, 256, read_q4_k, 144, {FOUR_BITS, SIX_BIT_PAIR, 0});
GROUPED_FORMAT(HALF_ZERO_4_32, 32, read_half_zero_32, 3 + 32, {FOUR_BITS, HALF_ZERO_32, 0});
GROUPED_FORMAT(HALF_ZERO_4_64, 64, read_half_zero_64, 3 + 64, {FOUR_BITS, HALF_ZERO_64, 0});
GROUPED_FORMAT(HALF_ZERO_4_128, 128, read_half_zero_128, 3 + 128, {FOUR_BITS, HALF_ZERO_128, 0});
GROUPED_FORMAT(FLOAT_ZERO_4_32, 32, read_float_zero_32, 5 + 32, {FOUR_BITS, FLOAT_ZERO_32, 0});
GROUPED_FORMAT(UNPACKED_4, 32, read_unpacked, 40, {FOUR_BITS, FLOAT_PAIR, 0});
