/* Formats of five bits, and of two and three. */
#include "grouped_files.h"
#include "grouped_multiply.h"

GROUPED_FORMAT(Q5_0, 32, read_q5_0, 22, {FIVE_BITS, HALF, 16});
GROUPED_FORMAT(Q5_1, 32, read_q5_1, 24, {FIVE_BITS, HALF_PAIR, 0});
GROUPED_FORMAT(Q5_K, 256, read_q5_k, 176, {FIVE_BITS, SIX_BIT_PAIR, 0});
GROUPED_FORMAT(Q2_K, 256, read_q2_k, 84, {TWO_BITS, FOUR_BIT_PAIR, 0});
GROUPED_FORMAT(Q3_K, 256, read_q3_k, 110, {THREE_BITS, SIX_BITS_OF_16, 4});
