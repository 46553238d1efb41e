/* Norms, activations, rotary positions, residuals, and KV writes. The reference implementations in torch are in integer.py and
   integer_attention.py. */
#include <stdbool.h>

#include "arithmetic.h"
#include "hadamard_int8.h"
#include "layout.h"
#include "pool.h"

#define RMS_NORM_CALL(FIELD)     \
    FIELD(const float *, x)      \
    FIELD(const float *, weight) \
    FIELD(float *, y)            \
    FIELD(int64_t, token_stride) \
    FIELD(int64_t, num_heads)    \
    FIELD(int64_t, size)         \
    FIELD(float, inverse_levels) \
    FIELD(double, inverse_size)  \
    FIELD(double, eps)
SHARED_STRUCT(rms_norm_call, RMS_NORM_CALL);
EXPORT_LAYOUT(rms_norm_call, RMS_NORM_CALL)

static void rms_norm_row(const struct rms_norm_call *call, const float *x, const float *weight, float *y) {
    float scale = row_scale(x, call->size, call->inverse_levels);
    /* Sums of squares of integers are exact in any order. */
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

#define ACTIVATION_CALL(FIELD)                                             \
    FIELD(const float *, gate_up)                                          \
    FIELD(float *, y)                                                      \
    FIELD(int64_t, size)                                                   \
    FIELD(float, square_factor) /* only gelu_tanh_mul reads the factors */ \
    FIELD(float, factor)
SHARED_STRUCT(activation_call, ACTIVATION_CALL);
EXPORT_LAYOUT(activation_call, ACTIVATION_CALL)

static void silu_mul_rows(const void *argument, int64_t first, int64_t end) {
    const struct activation_call *call = argument;
    for (int64_t row = first; row < end; row++) {
        const float *gate = call->gate_up + row * 2 * call->size, *up = gate + call->size;
        float *restrict y = call->y + row * call->size;
        for (int64_t i = 0; i < call->size; i++) y[i] = silu(gate[i]) * up[i];
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

#define POINTWISE_CALL(FIELD)                                                        \
    FIELD(const float *, x)                                                          \
    FIELD(const float *, other) /* only add reads it, the others read the factors */ \
    FIELD(float *, y)                                                                \
    FIELD(int64_t, size) /* of a row */                                              \
    FIELD(float, factor)                                                             \
    FIELD(float, inverse_factor)
SHARED_STRUCT(pointwise_call, POINTWISE_CALL);
EXPORT_LAYOUT(pointwise_call, POINTWISE_CALL)

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

#define ROPE_CALL(FIELD)         \
    FIELD(const float *, x)      \
    FIELD(const float *, cos)    \
    FIELD(const float *, sin)    \
    FIELD(float *, y)            \
    FIELD(int64_t, token_stride) \
    FIELD(int64_t, num_heads)    \
    FIELD(int64_t, head_size)    \
    FIELD(int64_t, rotated_size)
SHARED_STRUCT(rope_call, ROPE_CALL);
EXPORT_LAYOUT(rope_call, ROPE_CALL)

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

#define GATHER_CALL(FIELD)       \
    FIELD(const float *, x)      \
    FIELD(const int64_t *, rows) \
    FIELD(float *, y)            \
    FIELD(int64_t, size) /* of a row */
SHARED_STRUCT(gather_call, GATHER_CALL);
EXPORT_LAYOUT(gather_call, GATHER_CALL)

static void gather_some_rows(const void *argument, int64_t first, int64_t end) {
    const struct gather_call *call = argument;
    for (int64_t row = first; row < end; row++)
        memcpy(call->y + row * call->size, call->x + call->rows[row] * call->size, call->size * sizeof(float));
}

EXPORT void gather_rows(const struct gather_call *call, int64_t num_rows) {
    run_rows(gather_some_rows, call, num_rows, call->size);
}

#define WRITE_KV_CALL(FIELD)                               \
    FIELD(const float *, keys)                             \
    FIELD(const float *, values)                           \
    FIELD(const int64_t *, slots)                          \
    FIELD(void *, integers) /* of element_bytes, 1 or 2 */ \
    FIELD(float *, scales)                                 \
    FIELD(int64_t, keys_stride)                            \
    FIELD(int64_t, values_stride)                          \
    FIELD(int64_t, num_heads)                              \
    FIELD(int64_t, head_size)                              \
    FIELD(int64_t, page_size)                              \
    FIELD(int64_t, element_bytes)                          \
    FIELD(int64_t, scale_length) /* elements of a head that share a scale */
SHARED_STRUCT(write_kv_call, WRITE_KV_CALL);
EXPORT_LAYOUT(write_kv_call, WRITE_KV_CALL)

static const float INT8_INVERSE_LEVELS = (float)(1.0 / 127), INT16_INVERSE_LEVELS = (float)(1.0 / 8191);

/* Write the part of a head that begins at element `first` of the row, with its scale. */
static void write_kv_part(const struct write_kv_call *call, const float *x, int64_t size, int64_t first, float *scale_place) {
    bool is_int8 = call->element_bytes == 1;
    float scale = row_scale(x, size, is_int8 ? INT8_INVERSE_LEVELS : INT16_INVERSE_LEVELS);
    int8_t *restrict bytes = (int8_t *)call->integers + first;
    int16_t *restrict words = (int16_t *)call->integers + first;
    *scale_place = scale;
    if (is_int8)
        for (int64_t h = 0; h < size; h++) bytes[h] = (int8_t)round_to_int(x[h] / scale);
    else
        for (int64_t h = 0; h < size; h++) words[h] = (int16_t)round_to_int(x[h] / scale);
}

static void write_kv_head(const struct write_kv_call *call, const float *x, int64_t row) {
    int64_t length = call->scale_length, num_parts = (call->head_size + length - 1) / length;
    for (int64_t part = 0; part < num_parts; part++) {
        int64_t start = part * length, rest = call->head_size - start;
        write_kv_part(call, x + start, rest < length ? rest : length, row * call->head_size + start,
                      call->scales + row * num_parts + part);
    }
}

static void write_kv_rows(const void *argument, int64_t first, int64_t end) {
    const struct write_kv_call *call = argument;
    const float *parts[2] = {call->keys, call->values};
    int64_t strides[2] = {call->keys_stride, call->values_stride};
    float rotated[call->head_size];
    for (int64_t token = first; token < end; token++) {
        int64_t page = call->slots[token] / call->page_size, offset = call->slots[token] % call->page_size;
        for (int64_t i = 0; i < 2 * call->num_heads; i++) {
            int64_t part = i / call->num_heads, head = i % call->num_heads;
            const float *x = parts[part] + token * strides[part] + head * call->head_size;
            if (part == 0) {
                rotate_head(x, call->head_size, 1, rotated);
                x = rotated;
            }
            write_kv_head(call, x, (page * 2 * call->num_heads + i) * call->page_size + offset);
        }
    }
}

EXPORT void write_kv(const struct write_kv_call *call, int64_t num_tokens) {
    run_rows(write_kv_rows, call, num_tokens, 2 * call->num_heads * call->head_size);
}
