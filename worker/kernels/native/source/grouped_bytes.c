/* Formats of six and eight bits, and those whose integers are in a table. */
#include "grouped_files.h"
#include "grouped_multiply.h"

GROUPED_FORMAT(Q6_K, 256, read_q6_k, 210, {SIX_BITS, BYTE_OF_16, 32});
GROUPED_FORMAT(Q8_0, 32, read_q8_0, 34, {EIGHT_BITS, HALF, 128});
GROUPED_FORMAT(IQ4_NL, 32, read_iq4_nl, 18, {TABLE, HALF, 128});
GROUPED_FORMAT(IQ4_XS, 256, read_iq4_xs, 136, {TABLE, BYTE, 128});
GROUPED_FORMAT(UNPACKED_8, 32, read_unpacked_signed, 40, {EIGHT_BITS, FLOAT_PAIR, 128});
