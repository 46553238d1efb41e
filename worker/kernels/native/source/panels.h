/* How an int8 matrix lies in memory for source/linear.c: panels of PANEL outputs, so that each output's sum stays in its lane.

   A panel begins with the numbers at which its outputs' sums start; then come its weights, for each four inputs those of all its
   outputs. Inputs and outputs are padded with zeros. */
#ifndef PAGODA_PANELS_H
#define PAGODA_PANELS_H

#include "quads.h"

struct matrix {
    _Alignas(64) int64_t num_parts; /* in which its activations must be multiplied */
    int8_t panels[];
};

INLINE int64_t padded_inputs(int64_t num_in) { return (num_in + 3) / 4 * 4; }
INLINE int64_t count_panels(int64_t num_out) { return (num_out + PANEL - 1) / PANEL; }
INLINE int64_t panel_bytes(int64_t num_in) { return PANEL * ((int64_t)sizeof(int32_t) + padded_inputs(num_in)); }

#endif
