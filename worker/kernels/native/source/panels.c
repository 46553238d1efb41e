/* Int8 matrices [O, I] into panels. */
#include "panels.h"
#include "pool.h"

#include <stdlib.h>

/* An output's sums are at most 8192 times its weights' magnitudes, and each part's sum at most 64 times. Below this bound the one
   fits 32 bits and the others a float32, so the product of whole activations is the same float as the twin's sum of two floats. */
static const int64_t MAX_MAGNITUDES = 1 << 18;

static int64_t largest_magnitudes(const int8_t *weights, int64_t num_out, int64_t num_in) {
    int64_t largest = 0;
    for (int64_t o = 0; o < num_out; o++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < num_in; i++) sum += abs(weights[o * num_in + i]);
        largest = sum > largest ? sum : largest;
    }
    return largest;
}

static void start_sums(const int8_t *weights, int64_t num_in, int32_t *starts) {
    for (int v = 0; v < VECTORS; v++) {
        vector excess = zeros();
        for (int64_t i = 0; i < num_in; i += 4)
            excess = add_quads(excess, zero_activations(), load_weights(weights + i * PANEL, v));
        store_sums(starts + v * LANES, excess);
    }
    for (int o = 0; o < PANEL; o++) starts[o] = (int32_t)-(uint32_t)starts[o];
}

static void pack_panel(const int8_t *weights, int64_t num_out, int64_t num_in, int8_t *panel) {
    int32_t starts[PANEL];
    int8_t *packed = panel + sizeof starts;
    for (int64_t i = 0; i < padded_inputs(num_in); i++)
        for (int64_t o = 0; o < PANEL; o++)
            packed[place_in_panel(o, i)] = stored_weight(o < num_out && i < num_in ? weights[o * num_in + i] : 0);
    start_sums(packed, num_in, starts);
    memcpy(panel, starts, sizeof starts);
}

EXPORT int64_t matrix_bytes(int64_t num_out, int64_t num_in) {
    return (int64_t)sizeof(struct matrix) + count_panels(num_out) * panel_bytes(num_in);
}

EXPORT void pack_matrix(const int8_t *weights, struct matrix *matrix, int64_t num_out, int64_t num_in) {
    matrix->num_parts = largest_magnitudes(weights, num_out, num_in) < MAX_MAGNITUDES ? FEWEST_PARTS : 2;
    for (int64_t first = 0; first < num_out; first += PANEL)
        pack_panel(weights + first * num_in, num_out - first, num_in, matrix->panels + first / PANEL * panel_bytes(num_in));
}
