/* The router of a mixture of experts: exact scores, and the weights of the experts with the largest ones. The reference
   implementation in torch is in mixture.py, which explains why sums are exact. */
#include <math.h>
#include <stdbool.h>

#include "arithmetic.h"
#include "layout.h"
#include "pool.h"

#define ROUTE_CALL(FIELD)                                                      \
    FIELD(const float *, x) /* [T, D] */                                       \
    FIELD(const float *, router) /* [R, D], integers; R rows are the experts' and the shared gate's */ \
    FIELD(const float *, scales) /* [R] */                                     \
    FIELD(float *, y) /* [T, R]: scores, then weights */                       \
    FIELD(double *, rows) /* scratch [T, D + 1]: the input's integers, then their scale */ \
    FIELD(int64_t, size) /* D */                                               \
    FIELD(int64_t, num_rows) /* R */                                           \
    FIELD(int64_t, num_experts)                                                \
    FIELD(int64_t, num_used)                                                   \
    FIELD(int64_t, renormalizes)                                               \
    FIELD(float, inverse_levels)
SHARED_STRUCT(route_call, ROUTE_CALL);
EXPORT_LAYOUT(route_call, ROUTE_CALL)

enum { TOKENS_AT_ONCE = 4, AT_ONCE = 8 };

static void round_inputs(const void *argument, int64_t first, int64_t end) {
    const struct route_call *call = argument;
    for (int64_t token = first; token < end; token++) {
        const float *x = call->x + token * call->size;
        double *restrict integers = call->rows + token * (call->size + 1);
        float scale = row_scale(x, call->size, call->inverse_levels);
        for (int64_t i = 0; i < call->size; i++) integers[i] = __builtin_rintf(x[i] / scale);
        integers[call->size] = scale;
    }
}

struct score_job {
    const struct route_call *call;
    int64_t num_tokens;
};

typedef float some_floats __attribute__((vector_size(4 * AT_ONCE)));
typedef double some_doubles __attribute__((vector_size(8 * AT_ONCE)));

INLINE some_doubles load_widened(const float *x) {
    some_floats lanes;
    memcpy(&lanes, x, sizeof lanes);
    return __builtin_convertvector(lanes, some_doubles);
}

/* Multiply a row of the router with up to TOKENS_AT_ONCE tokens. Sums of products of integers are exact in any order. */
INLINE void multiply(const struct route_call *call, int64_t token, int64_t row, int num_tokens) {
    int64_t size = call->size, whole = size / AT_ONCE * AT_ONCE;
    const double *x = call->rows + token * (size + 1);
    const float *weights = call->router + row * size;
    some_doubles sums[TOKENS_AT_ONCE] = {{0}};
    for (int64_t i = 0; i < whole; i += AT_ONCE) {
        some_doubles w = load_widened(weights + i), inputs;
        for (int t = 0; t < num_tokens; t++) {
            memcpy(&inputs, x + t * (size + 1) + i, sizeof inputs);
            sums[t] += inputs * w;
        }
    }
    for (int t = 0; t < num_tokens; t++) {
        const double *inputs = x + t * (size + 1);
        double sum = 0;
        for (int lane = 0; lane < AT_ONCE; lane++) sum += sums[t][lane];
        for (int64_t i = whole; i < size; i++) sum += inputs[i] * weights[i];
        call->y[(token + t) * call->num_rows + row] = (float)(sum * inputs[size] * call->scales[row]);
    }
}

static void score_experts(const void *argument, int64_t first, int64_t end) {
    const struct score_job *job = argument;
    for (int64_t i = first; i < end; i++) {
        int64_t token = i / job->call->num_rows * TOKENS_AT_ONCE, row = i % job->call->num_rows;
        switch (job->num_tokens - token) {
            case 1: multiply(job->call, token, row, 1); break;
            case 2: multiply(job->call, token, row, 2); break;
            case 3: multiply(job->call, token, row, 3); break;
            default: multiply(job->call, token, row, TOKENS_AT_ONCE);
        }
    }
}

/* Return the expert with the largest score of those not yet used; of equal ones the first. */
static int64_t best_unused(const float *scores, const bool *is_used, int64_t num_experts) {
    int64_t best = -1;
    for (int64_t e = 0; e < num_experts; e++)
        if (!is_used[e] && (best < 0 || scores[e] > scores[best])) best = e;
    return best;
}

/* Replace a token's scores by weights. If a score is NaN, all are, and so are the weights of the first experts. */
static void weigh_experts(const struct route_call *call, float *scores) {
    int64_t num_experts = call->num_experts;
    bool is_used[num_experts], has_nan = false;
    memset(is_used, 0, sizeof is_used);
    for (int64_t e = 0; e < num_experts; e++) has_nan |= scores[e] != scores[e];
    for (int64_t e = 0; has_nan && e < num_experts; e++) scores[e] = NAN;
    float largest = scores[best_unused(scores, is_used, num_experts)];
    for (int64_t i = 0; i < call->num_used; i++) is_used[best_unused(scores, is_used, num_experts)] = true;
    float total = 0;
    for (int64_t e = 0; e < num_experts; e++) {
        scores[e] = exp2_clamped((scores[e] - largest) * LOG2_E);
        if (is_used[e] || !call->renormalizes) total += scores[e];
    }
    for (int64_t e = 0; e < num_experts; e++) scores[e] = is_used[e] ? scores[e] / total : 0.0f;
    for (int64_t e = num_experts; e < call->num_rows; e++) scores[e] = sigmoid(scores[e]);
}

static void weigh_rows(const void *argument, int64_t first, int64_t end) {
    const struct route_call *call = argument;
    for (int64_t token = first; token < end; token++) weigh_experts(call, call->y + token * call->num_rows);
}

EXPORT void route(const struct route_call *call, int64_t num_tokens) {
    run_rows(round_inputs, call, num_tokens, call->size);
    struct score_job job = {call, num_tokens};
    int64_t num_groups = (num_tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    run_rows(score_experts, &job, num_groups * call->num_rows, TOKENS_AT_ONCE * call->size);
    run_rows(weigh_rows, call, num_tokens, call->num_rows * call->num_used);
}
