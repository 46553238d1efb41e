/* Adjustment of a row of logits, and the choice of its token. The reference implementations, which explain the steps, are
   worker/kernels/logit_adjustment.py and worker/kernels/sampling.py.

   All compared or summed values are integers: the order of a logit, the weight of a token. So vectors may process them in any
   order, and values are found by bisection, in passes that only compare and add. A search for large values skips the blocks
   whose largest value is too small, which are nearly all of them. */
#include "arithmetic.h"
#include "layout.h"
#include "pool.h"

#include <stdbool.h>

#define LARGEST_LOGIT 0x1.fffffep127f

enum { BLOCK = 128, MASK_BITS = 32, WEIGHT_ONE = 1 << 30, OCTAVES_PER_LOOK = 2, INFINITY_BITS = 0x7f800000 };

#define CHOICE(FIELD)                                                                                                          \
    FIELD(const float *, logits)                                                                                               \
    FIELD(uint64_t, bits)                                                                                                      \
    FIELD(int64_t, top_k) /* 0: off */                                                                                         \
    FIELD(double, top_p)                                                                                                       \
    FIELD(int32_t, least_weight) /* of a token that min_p keeps */                                                             \
    FIELD(float, factor) /* from a difference of logits to an exponent of 2; 0: the highest logit wins */                      \
    FIELD(const int32_t *, bias_ids)                                                                                           \
    FIELD(const double *, bias)                                                                                                \
    FIELD(int64_t, num_bias)                                                                                                   \
    FIELD(const uint32_t *, mask) /* of tokens that can be chosen, one bit for each; NULL: all */                              \
    FIELD(const int32_t *, banned_ids)                                                                                         \
    FIELD(int64_t, num_banned)                                                                                                 \
    FIELD(const int32_t *, counts) /* three rows: token ids, their times in the penalty's window, their times in the output */ \
    FIELD(int64_t, counts_stride)                                                                                              \
    FIELD(int64_t, num_counts)                                                                                                 \
    FIELD(double, frequency_penalty)                                                                                           \
    FIELD(double, presence_penalty)                                                                                            \
    FIELD(float, repetition_penalty)
SHARED_STRUCT(choice, CHOICE);
EXPORT_LAYOUT(choice, CHOICE)

#define CHOOSE_CALL(FIELD)                                   \
    FIELD(const struct choice *, choices)                    \
    FIELD(int64_t *, token_ids)                              \
    FIELD(float *, chosen_logits) /* after the adjustment */ \
    FIELD(char *, scratch)                                   \
    FIELD(int64_t, scratch_bytes) /* of each thread */       \
    FIELD(int64_t, vocab_size) /* of each row */
SHARED_STRUCT(choose_call, CHOOSE_CALL);
EXPORT_LAYOUT(choose_call, CHOOSE_CALL)

/* The weights of tokens, the largest weight of each block, and the sum. */
struct weights {
    int32_t *values, *maxima;
    int64_t count, total;
};

typedef int64_t (*measure_function)(const int32_t *values, int64_t count, int32_t least);

/* A penalty near 0 must not make a logit infinite: that would be reported as a broken model. */
INLINE float penalised(float logit, float penalty) {
    if (!(logit > 0.0f)) return logit * penalty;
    float raised = logit / penalty;
    return raised > LARGEST_LOGIT && logit <= LARGEST_LOGIT ? LARGEST_LOGIT : raised;
}

/* Set the logits of tokens without a bit in the mask to -inf. */
static void keep_allowed(const uint32_t *restrict mask, int64_t size, float *restrict logits) {
    for (int64_t first = 0; first < size; first += MASK_BITS) {
        uint32_t word = mask[first / MASK_BITS];
        int64_t count = size - first < MASK_BITS ? size - first : MASK_BITS;
        if (word == UINT32_MAX) continue;
        for (int64_t i = 0; i < count; i++) logits[first + i] = word >> i & 1 ? logits[first + i] : -__builtin_inff();
    }
}

/* Return the row itself, or an adjusted copy. */
static const float *adjust(const struct choice *choice, int64_t size, float *adjusted) {
    if (choice->num_bias + choice->num_banned + choice->num_counts == 0 && !choice->mask) return choice->logits;
    const int32_t *ids = choice->counts, *in_window = ids + choice->counts_stride;
    const int32_t *in_output = in_window + choice->counts_stride;
    __builtin_memcpy(adjusted, choice->logits, (size_t)size * sizeof(float));
    for (int64_t i = 0; i < choice->num_bias; i++) {
        float *logit = adjusted + choice->bias_ids[i];
        *logit = (float)(*logit + choice->bias[i]);
    }
    if (choice->mask) keep_allowed(choice->mask, size, adjusted);
    for (int64_t i = 0; i < choice->num_banned; i++) adjusted[choice->banned_ids[i]] = -__builtin_inff();
    if (choice->repetition_penalty != 1.0f)
        for (int64_t i = 0; i < choice->num_counts; i++)
            if (in_window[i] > 0) adjusted[ids[i]] = penalised(adjusted[ids[i]], choice->repetition_penalty);
    if (choice->frequency_penalty != 0.0 || choice->presence_penalty != 0.0)
        for (int64_t i = 0; i < choice->num_counts; i++)
            if (in_output[i] > 0) {
                double less = choice->frequency_penalty * in_output[i] + choice->presence_penalty;
                adjusted[ids[i]] = (float)(adjusted[ids[i]] - less);
            }
    return adjusted;
}

/* Return an integer with the same order as the logit. Zeros of either sign are equal, and NaN is above all numbers. */
INLINE int32_t order_of(float logit) {
    int32_t bits = bits_of(logit), order = bits < 0 ? INT32_MIN - bits : bits;
    return (bits & INT32_MAX) > INFINITY_BITS ? INT32_MAX : order;
}

/* Return the weight of a token; the most probable one has 2^30. */
INLINE int32_t weight_of(float logit, float highest, float factor) {
    return (int32_t)__builtin_rintf(exp2_below_one((logit - highest) * factor) * 0x1p30f);
}

static void fill_orders(const float *logits, int64_t count, int32_t *restrict orders) {
    for (int64_t i = 0; i < count; i++) orders[i] = order_of(logits[i]);
}

static int64_t num_blocks(int64_t size) { return (size + BLOCK - 1) / BLOCK; }
static int64_t block_size(int64_t first, int64_t size) { return size - first < BLOCK ? size - first : BLOCK; }

static int32_t largest_of(const int32_t *values, int64_t count) {
    int32_t largest = INT32_MIN;
    for (int64_t i = 0; i < count; i++) largest = values[i] > largest ? values[i] : largest;
    return largest;
}

static int64_t count_from(const int32_t *values, int64_t count, int32_t least) {
    int32_t found = 0;
    for (int64_t i = 0; i < count; i++) found += values[i] >= least;
    return found;
}

static int64_t sum_from(const int32_t *values, int64_t count, int32_t least) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i] >= least ? values[i] : 0;
    return sum;
}

/* Return the largest `least` in [low, high] for which the measure is at least `needed`, as it must be for `low`. */
static int32_t bisect(
    measure_function measure, const int32_t *values, int64_t count, int64_t needed, int64_t low, int64_t high
) {
    while (low < high) {
        int64_t middle = high - (high - low) / 2;
        if (measure(values, count, (int32_t)middle) >= needed) low = middle;
        else high = middle - 1;
    }
    return (int32_t)low;
}

/* Return the first id of the highest logit, or of NaN, and store the highest of each block. */
static int64_t find_highest(const float *logits, int64_t size, int32_t *maxima) {
    int32_t highest = INT32_MIN;
    int64_t id = 0;
    for (int64_t first = 0; first < size; first += BLOCK) {
        int32_t orders[BLOCK];
        fill_orders(logits + first, block_size(first, size), orders);
        int32_t largest = maxima[first / BLOCK] = largest_of(orders, block_size(first, size));
        if (largest > highest) highest = largest, id = first;
    }
    while (order_of(logits[id]) != highest) id++;
    return id;
}

/* Store the ids of the top_k highest logits in ascending order; return their number. */
static int64_t take_top_k(
    const float *logits, int64_t size, int64_t top_k, const int32_t *maxima, int32_t *ids, int32_t *orders
) {
    int64_t blocks = num_blocks(size), count = 0, num_kept = 0;
    int32_t least = INT32_MIN, highest = largest_of(maxima, blocks);
    /* The top_k-th largest of the blocks' maxima is a lower bound, because top_k blocks each have a logit as large as that. */
    if (top_k <= blocks) least = bisect(count_from, maxima, blocks, top_k, least, highest);
    for (int64_t first = 0; first < size; first += BLOCK) {
        int32_t in_block[BLOCK];
        int64_t length = block_size(first, size);
        if (maxima[first / BLOCK] < least) continue;
        fill_orders(logits + first, length, in_block);
        for (int64_t i = 0; i < length; i++) {
            ids[count] = (int32_t)(first + i), orders[count] = in_block[i];
            count += in_block[i] >= least;
        }
    }
    least = bisect(count_from, orders, count, top_k, least, highest);
    int64_t equals = top_k - count_from(orders, count, least + 1);
    for (int64_t i = 0; i < count; i++) {
        ids[num_kept] = ids[i];
        num_kept += orders[i] > least || (orders[i] == least && equals-- > 0);
    }
    return num_kept;
}

static void fill_weights(struct weights *weights, const float *logits, float highest, float factor) {
    weights->total = 0;
    for (int64_t first = 0; first < weights->count; first += BLOCK) {
        int64_t length = block_size(first, weights->count);
        int32_t *restrict values = weights->values + first;
        for (int64_t i = 0; i < length; i++) values[i] = weight_of(logits[first + i], highest, factor);
        weights->maxima[first / BLOCK] = largest_of(values, length);
        weights->total += sum_from(values, length, 0);
    }
}

static int64_t total_from(const struct weights *weights, int32_t least) {
    int64_t sum = 0;
    if (least <= 0) return weights->total;
    for (int64_t first = 0; first < weights->count; first += BLOCK)
        if (weights->maxima[first / BLOCK] >= least)
            sum += sum_from(weights->values + first, block_size(first, weights->count), least);
    return sum;
}

/* Store the weights in [low, high]; return their number. */
static int64_t collect(const struct weights *weights, int32_t low, int32_t high, int32_t *found) {
    int64_t count = 0;
    for (int64_t first = 0; first < weights->count; first += BLOCK) {
        if (weights->maxima[first / BLOCK] < low) continue;
        for (int64_t i = first, end = first + block_size(first, weights->count); i < end; i++) {
            found[count] = weights->values[i];
            count += (uint32_t)(weights->values[i] - low) <= (uint32_t)(high - low);
        }
    }
    return count;
}

/* Keep only the first num_kept tokens with this weight. */
static void keep_first(struct weights *weights, int32_t weight, int64_t num_kept) {
    for (int64_t i = 0; i < weights->count; i++)
        if (weights->values[i] == weight && num_kept-- <= 0) weights->values[i] = 0;
}

/* Return the least weight of the tokens that make up top_p. It is in the octaves [low, high], which are found from the top
   down. */
static int32_t keep_top_p(struct weights *weights, double top_p, int32_t *near) {
    int64_t needed = (int64_t)__builtin_ceil(top_p * (double)weights->total), above, sum = 0;
    int32_t high, low = WEIGHT_ONE + 1;
    /* The product is a double, which may be rounded up beyond the total. */
    if (needed > weights->total) needed = weights->total;
    do {
        high = low - 1, above = sum;
        low >>= OCTAVES_PER_LOOK;
        sum = total_from(weights, low);
    } while (sum < needed);
    int64_t num_near = collect(weights, low, high, near);
    int32_t least = bisect(sum_from, near, num_near, needed - above, low, high);
    int64_t missing = needed - above - sum_from(near, num_near, least + 1), num_kept = (missing + least - 1) / least;
    if (num_kept < count_from(near, num_near, least) - count_from(near, num_near, least + 1))
        keep_first(weights, least, num_kept);
    return least;
}

/* Draw a token from those with at least this weight and return its index. */
static int64_t draw(const struct weights *weights, int32_t least, uint64_t bits) {
    int64_t target = (int64_t)((unsigned __int128)bits * (uint64_t)total_from(weights, least) >> 64), index = 0;
    for (;; index += BLOCK) {
        if (weights->maxima[index / BLOCK] < least) continue;
        int64_t sum = sum_from(weights->values + index, block_size(index, weights->count), least);
        if (target < sum) break;
        target -= sum;
    }
    while (weights->values[index] < least || (target -= weights->values[index]) >= 0) index++;
    return index;
}

static int64_t choose(const struct choice *choice, const float *logits, int64_t size, int32_t *scratch) {
    int32_t *maxima = scratch, *ids = maxima + num_blocks(size), *values = ids + size;
    struct weights weights = {values + size, maxima, size, 0};
    int64_t best = find_highest(logits, size, maxima);
    float highest = logits[best];
    if (choice->factor == 0.0f || !__builtin_isfinite(highest)) return best;
    bool is_part = choice->top_k > 0 && choice->top_k < size;
    if (is_part) {
        float *taken = (float *)values;
        weights.count = take_top_k(logits, size, choice->top_k, maxima, ids, values);
        for (int64_t i = 0; i < weights.count; i++) taken[i] = logits[ids[i]];
        logits = taken;
    }
    fill_weights(&weights, logits, highest, choice->factor);
    int32_t least = choice->top_p < 1.0 ? keep_top_p(&weights, choice->top_p, values) : 0;
    if (least < choice->least_weight) least = choice->least_weight;
    int64_t index = draw(&weights, least, choice->bits);
    return is_part ? ids[index] : index;
}

static void choose_of_row(const void *argument, int64_t row, int thread) {
    const struct choose_call *call = argument;
    const struct choice *choice = call->choices + row;
    float *adjusted = (float *)(call->scratch + thread * call->scratch_bytes);
    const float *logits = adjust(choice, call->vocab_size, adjusted);
    int64_t token_id = choose(choice, logits, call->vocab_size, (int32_t *)(adjusted + call->vocab_size));
    call->token_ids[row] = token_id;
    call->chosen_logits[row] = logits[token_id];
}

EXPORT int64_t choose_scratch_bytes(int64_t vocab_size) {
    return (int64_t)sizeof(int32_t) * (num_blocks(vocab_size) + 4 * vocab_size);
}

EXPORT void choose_tokens(const struct choose_call *call, int64_t num_rows) {
    run_chunks(choose_of_row, call, num_rows);
}
