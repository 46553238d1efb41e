/* The experts of a mixture, in one call: pairs of a token and one of its experts are ordered by expert, so that each expert's
   panels are read once for all of its tokens. The reference implementation in torch is in mixture.py.

   A token's results are added in the order of its experts, so its bits do not depend on the other tokens. */
#include <stdbool.h>

#include "arithmetic.h"
#include "linear_tiles.h"
#include "pool.h"

/* A matrix of one expert. */
struct expert_matrix {
    const struct linear_format *format;
    const void *panels;
};

/* Legend: K experts of a token at most, F inner size, P = T * K pairs. Buffers of pairs are scratch memory. */
#define EXPERTS_CALL(FIELD)                                                         \
    FIELD(const float *, x) /* [T, D] */                                            \
    FIELD(const float *, routing) /* [T, num_weights] */                            \
    FIELD(const float *, shared) /* [T, D], or NULL */                              \
    FIELD(float *, y) /* [T, D] */                                                  \
    FIELD(const struct expert_matrix *, gate) /* [E] */                             \
    FIELD(const struct expert_matrix *, up)                                         \
    FIELD(const struct expert_matrix *, down)                                       \
    FIELD(int32_t *, places) /* [P]: the place of each pair in the order, or -1 */  \
    FIELD(int32_t *, tokens) /* [P]: the token of each place */                     \
    FIELD(void *, rows) /* [T]: rounded inputs */                                   \
    FIELD(void *, gate_rows) /* [P]: rounded inputs of each place */                \
    FIELD(void *, up_rows) /* [P], the same as gate_rows if the formats round alike */ \
    FIELD(void *, down_rows) /* [P]: rounded inputs of down */                      \
    FIELD(float *, gates) /* [P, F] */                                              \
    FIELD(float *, ups) /* [P, F] */                                                \
    FIELD(float *, results) /* [P, D] */                                            \
    FIELD(int64_t, size) /* D */                                                    \
    FIELD(int64_t, inner_size) /* F */                                              \
    FIELD(int64_t, num_weights)                                                     \
    FIELD(int64_t, num_experts)                                                     \
    FIELD(int64_t, num_used) /* K */
SHARED_STRUCT(experts_call, EXPERTS_CALL);
EXPORT_LAYOUT(experts_call, EXPERTS_CALL)

/* A multiplication of all experts that have tokens with one or two of their matrices. */
struct experts_job {
    const struct experts_call *call;
    const int32_t *starts, *used; /* the first place of each expert, and the experts that have tokens */
    const struct expert_matrix *matrices[2];
    const void *rows[2];
    float *results[2];
    int64_t num_in, num_out, chunks_per_expert;
};

/* Order the pairs by expert: `places` holds each pair's expert, then its place. Return the number of experts with tokens. */
static int64_t order_pairs(const struct experts_call *call, int64_t num_tokens, int32_t *starts, int32_t *used) {
    int64_t num_used = 0, num_experts = call->num_experts;
    memset(starts, 0, (num_experts + 1) * sizeof *starts);
    for (int64_t token = 0; token < num_tokens; token++) {
        const float *weights = call->routing + token * call->num_weights;
        int32_t *places = call->places + token * call->num_used;
        int64_t slot = 0;
        for (int32_t e = 0; e < num_experts && slot < call->num_used; e++)
            if (weights[e] != 0) places[slot++] = e, starts[e + 1]++;
        while (slot < call->num_used) places[slot++] = -1;
    }
    for (int32_t e = 0; e < num_experts; e++) {
        if (starts[e + 1]) used[num_used++] = e;
        starts[e + 1] += starts[e];
    }
    int32_t next[num_experts];
    memcpy(next, starts, sizeof next);
    for (int64_t pair = 0; pair < num_tokens * call->num_used; pair++) {
        int32_t e = call->places[pair];
        if (e < 0) continue;
        call->tokens[next[e]] = (int32_t)(pair / call->num_used);
        call->places[pair] = next[e]++;
    }
    return num_used;
}

struct gather_job {
    const struct experts_call *call;
    void *rows;
    int64_t bytes;
};

static void gather_rounded(const void *argument, int64_t first, int64_t end) {
    const struct gather_job *job = argument;
    for (int64_t place = first; place < end; place++)
        memcpy((char *)job->rows + place * job->bytes, (const char *)job->call->rows + job->call->tokens[place] * job->bytes,
               job->bytes);
}

/* Round each token's row once, and copy it to the places of its pairs. */
static void round_inputs(const struct experts_call *call, const struct linear_format *format, void *rows, int64_t num_tokens,
                         int64_t num_pairs) {
    struct linear_call inputs = {.x = call->x, .rows = call->rows, .num_in = call->size};
    struct gather_job job = {.call = call, .rows = rows, .bytes = format->bytes_per_token(call->size)};
    run_rows(format->round_tokens, &inputs, num_tokens, call->size);
    run_rows(gather_rounded, &job, num_pairs, call->size);
}

static void multiply_chunk(const void *argument, int64_t chunk, int thread) {
    (void)thread;
    const struct experts_job *job = argument;
    int64_t part = chunk % job->chunks_per_expert, index = chunk / job->chunks_per_expert;
    int32_t expert = job->used[index];
    for (int m = 0; m < 2 && job->matrices[m]; m++) {
        const struct expert_matrix *matrix = job->matrices[m] + expert;
        struct linear_call call = {.panels = matrix->panels, .y = job->results[m], .rows = (void *)job->rows[m],
                                   .num_in = job->num_in, .num_out = job->num_out, .y_stride = job->num_out};
        int64_t num_panels = divide_up(job->num_out, matrix->format->panel);
        int64_t first = num_panels * part / job->chunks_per_expert, end = num_panels * (part + 1) / job->chunks_per_expert;
        multiply_tiles(matrix->format, &call, job->starts[expert], job->starts[expert + 1], first, end);
    }
}

static void multiply_experts(struct experts_job *job, int64_t num_used, int64_t num_pairs) {
    bool is_small = num_pairs * job->num_in * job->num_out < SERIAL_PRODUCTS;
    job->chunks_per_expert = is_small ? 1 : divide_up(CHUNKS_PER_THREAD * num_threads(), num_used);
    if (is_small)
        for (int64_t chunk = 0; chunk < num_used; chunk++) multiply_chunk(job, chunk, 0);
    else run_chunks(multiply_chunk, job, num_used * job->chunks_per_expert);
}

/* Compute gate * sigmoid(gate) * up in the place of gate, as silu_mul does, and round it for down. */
static void activate_rows(const void *argument, int64_t first, int64_t end) {
    const struct experts_call *call = argument;
    int64_t size = call->inner_size;
    struct linear_call inputs = {.x = call->gates, .rows = call->down_rows, .num_in = size};
    float *restrict gates = call->gates;
    const float *restrict ups = call->ups;
    for (int64_t i = first * size; i < end * size; i++) gates[i] = silu(gates[i]) * ups[i];
    call->down->format->round_tokens(&inputs, first, end);
}

static void add_results(const void *argument, int64_t first, int64_t end) {
    const struct experts_call *call = argument;
    int64_t size = call->size;
    for (int64_t token = first; token < end; token++) {
        const float *weights = call->routing + token * call->num_weights;
        const int32_t *places = call->places + token * call->num_used;
        float *restrict y = call->y + token * size;
        for (int64_t i = 0; i < size; i++)
            y[i] = call->shared ? call->shared[token * size + i] * weights[call->num_experts] : 0.0f;
        for (int64_t slot = 0, e = 0; slot < call->num_used && places[slot] >= 0; slot++, e++) {
            while (weights[e] == 0) e++;
            const float *result = call->results + places[slot] * size;
            for (int64_t i = 0; i < size; i++) y[i] += result[i] * weights[e];
        }
    }
}

EXPORT void experts(const struct experts_call *call, int64_t num_tokens) {
    if (num_tokens == 0) return;
    int32_t starts[call->num_experts + 1], used[call->num_experts];
    int64_t num_used = order_pairs(call, num_tokens, starts, used), num_pairs = starts[call->num_experts];
    round_inputs(call, call->gate->format, call->gate_rows, num_tokens, num_pairs);
    if (call->up_rows != call->gate_rows) round_inputs(call, call->up->format, call->up_rows, num_tokens, num_pairs);
    struct experts_job inner = {.call = call, .starts = starts, .used = used, .matrices = {call->gate, call->up},
                                .rows = {call->gate_rows, call->up_rows}, .results = {call->gates, call->ups},
                                .num_in = call->size, .num_out = call->inner_size};
    struct experts_job outer = {.call = call, .starts = starts, .used = used, .matrices = {call->down},
                                .rows = {call->down_rows}, .results = {call->results}, .num_in = call->inner_size,
                                .num_out = call->size};
    multiply_experts(&inner, num_used, num_pairs);
    run_rows(activate_rows, call, num_pairs, call->inner_size);
    multiply_experts(&outer, num_used, num_pairs);
    run_rows(add_results, call, num_tokens, call->size * call->num_used);
}
