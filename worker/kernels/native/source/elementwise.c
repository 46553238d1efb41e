/* Norms, activations, rotary positions, residuals, and KV writes. The twins are in integer.py and integer_attention.py. */
#include <stdbool.h>

#include "arithmetic.h"
#include "pool.h"

struct rms_norm_call {
    const float *x, *weight;
    float *y;
    int64_t token_stride, num_heads, size;
    float inverse_levels;
    double inverse_size, eps;
};

static void rms_norm_row(const struct rms_norm_call *call, const float *x, const float *weight, float *y) {
    float scale = row_scale(x, call->size, call->inverse_levels);
    /* Squares of integers: exact in any order. */
    double sums[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= call->size; i += 8)
        for (int j = 0; j < 8; j++) {
            double integer = __builtin_rintf(x[i + j] / scale);
            sums[j] += integer * integer;
        }
    for (; i < call->size; i++) {
        double integer = __builtin_rintf(x[i] / scale);
        sums[0] += integer * integer;
    }
    double sum = 0;
    for (int j = 0; j < 8; j++) sum += sums[j];
    float rms = (float)__builtin_sqrt(sum * scale * scale * call->inverse_size + call->eps);
    for (i = 0; i < call->size; i++) y[i] = x[i] / rms * weight[i];
}

static void rms_norm_rows(const void *argument, int64_t first, int64_t end) {
    const struct rms_norm_call *call = argument;
    for (int64_t row = first; row < end; row++) {
        int64_t token = row / call->num_heads, head = row % call->num_heads;
        const float *x = call->x + token * call->token_stride + head * call->size;
        rms_norm_row(call, x, call->weight + head * call->size, call->y + row * call->size);
    }
}

EXPORT void rms_norm(const struct rms_norm_call *call, int64_t num_tokens) {
    run_rows(rms_norm_rows, call, num_tokens * call->num_heads, call->size);
}

struct activation_call {
    const float *gate_up;
    float *y;
    int64_t size;
    float square_factor, factor; /* only gelu_tanh_mul reads them */
};

static void silu_mul_rows(const void *argument, int64_t first, int64_t end) {
    const struct activation_call *call = argument;
    for (int64_t row = first; row < end; row++) {
        const float *gate = call->gate_up + row * 2 * call->size, *up = gate + call->size;
        float *restrict y = call->y + row * call->size;
        for (int64_t i = 0; i < call->size; i++) y[i] = gate[i] / (exp2_clamped(gate[i] * -LOG2_E) + 1.0f) * up[i];
    }
}

EXPORT void silu_mul(const struct activation_call *call, int64_t num_tokens) {
    run_rows(silu_mul_rows, call, num_tokens, call->size);
}

static void gelu_tanh_mul_rows(const void *argument, int64_t first, int64_t end) {
    const struct activation_call *call = argument;
    for (int64_t row = first; row < end; row++) {
        const float *gate = call->gate_up + row * 2 * call->size, *up = gate + call->size;
        float *restrict y = call->y + row * call->size;
        for (int64_t i = 0; i < call->size; i++) {
            float exponent = (gate[i] * gate[i] * call->square_factor + call->factor) * gate[i];
            y[i] = gate[i] / (exp2_clamped(exponent) + 1.0f) * up[i];
        }
    }
}

EXPORT void gelu_tanh_mul(const struct activation_call *call, int64_t num_tokens) {
    run_rows(gelu_tanh_mul_rows, call, num_tokens, call->size);
}

struct pointwise_call {
    const float *x, *other; /* only add reads the other one, the rest the factors */
    float *y;
    int64_t size; /* of a row */
    float factor, inverse_factor;
};

static void add_elements(const void *argument, int64_t first, int64_t end) {
    const struct pointwise_call *call = argument;
    float *restrict y = call->y;
    for (int64_t i = first; i < end; i++) y[i] = call->x[i] + call->other[i];
}

EXPORT void add(const struct pointwise_call *call, int64_t num_tokens) {
    run_rows(add_elements, call, num_tokens * call->size, 1);
}

static void scale_elements(const void *argument, int64_t first, int64_t end) {
    const struct pointwise_call *call = argument;
    float *restrict y = call->y;
    for (int64_t i = first; i < end; i++) y[i] = call->x[i] * call->factor;
}

EXPORT void scale(const struct pointwise_call *call, int64_t num_tokens) {
    run_rows(scale_elements, call, num_tokens * call->size, 1);
}

static void cap_elements(const void *argument, int64_t first, int64_t end) {
    const struct pointwise_call *call = argument;
    float *restrict y = call->y;
    for (int64_t i = first; i < end; i++) y[i] = tanh_by_exp2(call->x[i] * call->inverse_factor) * call->factor;
}

EXPORT void cap(const struct pointwise_call *call, int64_t num_tokens) {
    run_rows(cap_elements, call, num_tokens * call->size, 1);
}

struct rope_call {
    const float *x, *cos, *sin;
    float *y;
    int64_t token_stride, num_heads, head_size, rotated_size;
};

static void rope_rows(const void *argument, int64_t first, int64_t end) {
    const struct rope_call *call = argument;
    int64_t half = call->rotated_size / 2;
    for (int64_t token = first; token < end; token++) {
        const float *cos = call->cos + token * call->rotated_size, *sin = call->sin + token * call->rotated_size;
        for (int64_t head = 0; head < call->num_heads; head++) {
            const float *x = call->x + token * call->token_stride + head * call->head_size;
            float *restrict y = call->y + (token * call->num_heads + head) * call->head_size;
            for (int64_t i = 0; i < half; i++) y[i] = x[i] * cos[i] + x[i + half] * sin[i];
            for (int64_t i = half; i < 2 * half; i++) y[i] = x[i] * cos[i] + x[i - half] * sin[i];
            for (int64_t i = 2 * half; i < call->head_size; i++) y[i] = x[i];
        }
    }
}

EXPORT void rope(const struct rope_call *call, int64_t num_tokens) {
    run_rows(rope_rows, call, num_tokens, call->num_heads * call->head_size);
}

struct gather_call {
    const float *x;
    const int64_t *rows;
    float *y;
    int64_t size; /* of a row */
};

static void gather_some_rows(const void *argument, int64_t first, int64_t end) {
    const struct gather_call *call = argument;
    for (int64_t row = first; row < end; row++)
        memcpy(call->y + row * call->size, call->x + call->rows[row] * call->size, call->size * sizeof(float));
}

EXPORT void gather_rows(const struct gather_call *call, int64_t num_rows) {
    run_rows(gather_some_rows, call, num_rows, call->size);
}

struct write_kv_call {
    const float *parts[2]; /* keys, values */
    const int64_t *slots;
    void *integers; /* of element_bytes, 1 or 2 */
    float *scales;
    int64_t token_strides[2], num_heads, head_size, page_size, element_bytes;
};

static const float INT8_INVERSE_LEVELS = (float)(1.0 / 127), INT16_INVERSE_LEVELS = (float)(1.0 / 8191);

static void write_kv_head(const struct write_kv_call *call, const float *x, int64_t row) {
    bool is_int8 = call->element_bytes == 1;
    float scale = row_scale(x, call->head_size, is_int8 ? INT8_INVERSE_LEVELS : INT16_INVERSE_LEVELS);
    int8_t *restrict bytes = (int8_t *)call->integers + row * call->head_size;
    int16_t *restrict words = (int16_t *)call->integers + row * call->head_size;
    call->scales[row] = scale;
    if (is_int8)
        for (int64_t h = 0; h < call->head_size; h++) bytes[h] = (int8_t)round_to_int(x[h] / scale);
    else
        for (int64_t h = 0; h < call->head_size; h++) words[h] = (int16_t)round_to_int(x[h] / scale);
}

static void write_kv_rows(const void *argument, int64_t first, int64_t end) {
    const struct write_kv_call *call = argument;
    for (int64_t token = first; token < end; token++) {
        int64_t page = call->slots[token] / call->page_size, offset = call->slots[token] % call->page_size;
        for (int64_t i = 0; i < 2 * call->num_heads; i++) {
            int64_t part = i / call->num_heads, head = i % call->num_heads;
            const float *x = call->parts[part] + token * call->token_strides[part] + head * call->head_size;
            write_kv_head(call, x, (page * 2 * call->num_heads + i) * call->page_size + offset);
        }
    }
}

EXPORT void write_kv(const struct write_kv_call *call, int64_t num_tokens) {
    run_rows(write_kv_rows, call, num_tokens, 2 * call->num_heads * call->head_size);
}
