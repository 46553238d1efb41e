/* Attention over pages, decode and prefill chunk alike. The twin and its budgets are in integer_attention.py.

   An item is a few consecutive queries of one sequence, with all query heads of one KV head; its keys are those from the first
   that its first query sees to the last query's own. Queries and weights are cut into two 16-bit parts, high * 2048 + low, whose
   sums fit 32 bits over DOT_ELEMENTS elements or TILE keys; these are then added up exactly in float64.

   Keys that a query does not see, being in the item for another query, have weight zero. */
#include "attention_sums.h"
#include "arithmetic.h"
#include "pool.h"

enum { ITEM_FIELDS = 4, ALIGNMENT = 64 };

static const float QUERY_INVERSE_LEVELS = 1.0f / (1 << 22);
static const float WEIGHT_INVERSE_LEVELS = 1.0f / (1 << 21);
static const float PROBABILITY_LEVELS = 1 << 30;
static const int64_t SERIAL_PRODUCTS = 1 << 17;

/* What is the same for all layers of a step that have the same window. */
struct attention_step {
    const int64_t *tables; /* [S, table_width] */
    const int64_t *items;  /* [items, ITEM_FIELDS]: sequence, first row, number of rows, position of the first row */
    char *scratch;         /* scratch_bytes for each thread */
    int64_t table_width, num_items, scratch_bytes;
};

struct attention_call {
    const float *q;         /* [T, N, H], tokens q_stride apart */
    float *out;             /* [T, N, H] */
    const int16_t *kv;      /* [pages, 2 K, P, H] */
    const float *kv_scales; /* [pages, 2 K, P] */
    const struct attention_step *step;
    int64_t q_stride, num_heads, num_kv_heads, head_size, page_size;
    int64_t window;                 /* 0: all */
    float score_factor, cap_factor; /* cap_factor 0: no cap */
};

/* One item and KV head: sizes, and its places in the thread's scratch memory. */
struct item {
    int64_t first_key, num_keys, padded_keys, num_queries, group_size, head_size, padded_size;
    int64_t *key_rows;         /* [keys] in rows of H; the value's is page_size * num_kv_heads further */
    float *key_scales, *value_scales; /* [keys] */
    int16_t *query_parts;      /* [queries, 2, padded_size] */
    float *query_scales;       /* [queries] */
    float *scores;             /* [queries, padded_keys] */
    int16_t *weight_parts;     /* [queries, 2, padded_keys] */
    float *weight_scales;      /* [queries] */
    int16_t *tile;             /* [TILE / 2, padded_size, 2] */
    double *sums;              /* [queries, padded_size] */
};

static int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

static void *take(char **place, int64_t num_bytes) {
    void *taken = *place;
    *place += round_up(num_bytes, ALIGNMENT);
    return taken;
}

/* Lays the item out from `scratch` on; returns how many bytes that takes. */
static int64_t lay_out(struct item *item, char *scratch) {
    char *place = scratch;
    int64_t queries = item->num_queries, keys = item->padded_keys = round_up(item->num_keys, TILE);
    int64_t size = item->padded_size = round_up(item->head_size, SIZE_UNIT);
    item->key_rows = take(&place, keys * sizeof(int64_t));
    item->key_scales = take(&place, keys * sizeof(float));
    item->value_scales = take(&place, keys * sizeof(float));
    item->query_parts = take(&place, queries * 2 * size * sizeof(int16_t));
    item->query_scales = take(&place, queries * sizeof(float));
    item->scores = take(&place, queries * keys * sizeof(float));
    item->weight_parts = take(&place, queries * 2 * keys * sizeof(int16_t));
    item->weight_scales = take(&place, queries * sizeof(float));
    item->tile = take(&place, TILE * size * sizeof(int16_t));
    item->sums = take(&place, queries * size * sizeof(double));
    return place - scratch;
}

EXPORT int64_t attention_scratch_bytes(int64_t num_queries, int64_t num_keys, int64_t head_size) {
    struct item item = {.num_queries = num_queries, .num_keys = num_keys, .head_size = head_size};
    char nothing;
    return lay_out(&item, &nothing);
}

static void find_keys(const struct attention_call *call, const int64_t *table, int64_t kv_head, struct item *item) {
    int64_t to_values = call->num_kv_heads * call->page_size;
    for (int64_t j = 0; j < item->num_keys; j++) {
        int64_t key = item->first_key + j, page = table[key / call->page_size];
        int64_t row = (page * 2 * call->num_kv_heads + kv_head) * call->page_size + key % call->page_size;
        item->key_rows[j] = row;
        item->key_scales[j] = call->kv_scales[row];
        item->value_scales[j] = call->kv_scales[row + to_values];
    }
}

static void round_query(const struct attention_call *call, const float *q, int64_t query, struct item *item) {
    float scale = row_scale(q, item->head_size, QUERY_INVERSE_LEVELS);
    int16_t *restrict high = item->query_parts + query * 2 * item->padded_size;
    int16_t *restrict low = high + item->padded_size;
    for (int64_t h = 0; h < item->head_size; h++) {
        int32_t whole = round_to_int(q[h] / scale), high_part = (whole + HALF_PART) >> PART_BITS;
        high[h] = (int16_t)high_part;
        low[h] = (int16_t)(whole - high_part * (1 << PART_BITS));
    }
    for (int64_t h = item->head_size; h < item->padded_size; h++) high[h] = low[h] = 0;
    item->query_scales[query] = scale * call->score_factor;
}

/* Products to scores, in powers of two, and the largest of them; NaN if one is. */
static float scale_scores(const struct attention_call *call, float *restrict scores, const float *key_scales,
                          int64_t num_keys, float query_scale) {
    for (int64_t j = 0; j < num_keys; j++) scores[j] = scores[j] * query_scale * key_scales[j];
    if (call->cap_factor != 0)
        for (int64_t j = 0; j < num_keys; j++) scores[j] = tanh_by_exp2(scores[j]) * call->cap_factor;
    int32_t largest = INT32_MIN, has_nan = 0;
    for (int64_t j = 0; j < num_keys; j++) {
        /* Floats in the order of their bits, once negative ones are turned around. */
        int32_t bits = bits_of(scores[j]), ordered = bits ^ ((bits >> 31) & 0x7fffffff);
        largest = ordered > largest ? ordered : largest;
        has_nan |= magnitude_bits(scores[j]) > 0x7f800000;
    }
    return float_of(has_nan ? 0x7fc00000 : largest ^ ((largest >> 31) & 0x7fffffff));
}

/* Scores to probabilities times the values' scales, in place; the sum of the rounded probabilities. */
static int64_t weigh(float *restrict scores, const float *value_scales, int64_t num_keys, float largest) {
    int64_t total = 0;
    for (int64_t j = 0; j < num_keys; j++) {
        float probability = exp2_clamped(scores[j] - largest);
        total += round_to_int(probability * PROBABILITY_LEVELS);
        scores[j] = probability * value_scales[j];
    }
    return total;
}

/* One query's scores to the integer weights of the keys [first, end) that it sees. */
static void weigh_keys(const struct attention_call *call, struct item *item, int64_t query, int64_t first, int64_t end) {
    float *scores = item->scores + query * item->padded_keys + first;
    int64_t num_keys = end - first;
    float largest = scale_scores(call, scores, item->key_scales + first, num_keys, item->query_scales[query]);
    int64_t total = weigh(scores, item->value_scales + first, num_keys, largest);
    float scale = row_largest(scores, num_keys) * WEIGHT_INVERSE_LEVELS;
    int16_t *restrict high = item->weight_parts + query * 2 * item->padded_keys;
    int16_t *restrict low = high + item->padded_keys;
    memset(high, 0, 2 * item->padded_keys * sizeof(int16_t));
    for (int64_t j = 0; j < num_keys; j++) {
        int32_t weight = round_to_int(scores[j] / scale);
        high[first + j] = (int16_t)(weight >> PART_BITS);
        low[first + j] = (int16_t)(weight & ((1 << PART_BITS) - 1));
    }
    item->weight_scales[query] = scale / (float)((double)total * (1.0 / PROBABILITY_LEVELS));
}

static void score_keys(const struct attention_call *call, const struct item *item) {
    for (int64_t j = 0; j < item->num_keys; j += KEYS_AT_ONCE) {
        const int16_t *keys[KEYS_AT_ONCE];
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            /* Beyond the end the last one stands in, and its scores are not looked at. */
            int64_t key = j + i < item->num_keys ? j + i : item->num_keys - 1;
            keys[i] = call->kv + item->key_rows[key] * item->head_size;
        }
        for (int64_t query = 0; query < item->num_queries; query++) {
            const int16_t *parts = item->query_parts + query * 2 * item->padded_size;
            dot_keys(parts, parts + item->padded_size, keys, item->head_size,
                     item->scores + query * item->padded_keys + j);
        }
    }
}

static void add_values(const struct attention_call *call, struct item *item) {
    int64_t to_values = call->num_kv_heads * call->page_size;
    memset(item->sums, 0, item->num_queries * item->padded_size * sizeof(double));
    for (int64_t first = 0; first < item->num_keys; first += TILE) {
        int64_t num_keys = item->num_keys - first < TILE ? item->num_keys - first : TILE;
        const int16_t *values[TILE];
        for (int64_t j = 0; j < num_keys; j++)
            values[j] = call->kv + (item->key_rows[first + j] + to_values) * item->head_size;
        interleave(values, num_keys, item->head_size, item->padded_size, item->tile);
        for (int64_t query = 0; query < item->num_queries; query++) {
            const int16_t *high = item->weight_parts + query * 2 * item->padded_keys + first;
            add_tile(high, high + item->padded_keys, item->tile, num_keys, item->padded_size,
                     item->sums + query * item->padded_size);
        }
    }
}

static int64_t first_seen(const struct attention_call *call, int64_t position) {
    return call->window > 0 && position >= call->window ? position - call->window + 1 : 0;
}

static struct item describe(const struct attention_call *call, const int64_t *fields) {
    int64_t num_rows = fields[2], position = fields[3], group_size = call->num_heads / call->num_kv_heads;
    int64_t first_key = first_seen(call, position);
    return (struct item){.first_key = first_key,
                         .num_keys = position + num_rows - first_key,
                         .num_queries = num_rows * group_size,
                         .group_size = group_size,
                         .head_size = call->head_size};
}

static void attend_item(const void *argument, int64_t chunk, int thread) {
    const struct attention_call *call = argument;
    const int64_t *fields = call->step->items + chunk / call->num_kv_heads * ITEM_FIELDS;
    int64_t kv_head = chunk % call->num_kv_heads, first_row = fields[1], position = fields[3];
    struct item item = describe(call, fields);
    lay_out(&item, call->step->scratch + thread * call->step->scratch_bytes);
    find_keys(call, call->step->tables + fields[0] * call->step->table_width, kv_head, &item);
    for (int64_t query = 0; query < item.num_queries; query++) {
        int64_t row = first_row + query / item.group_size, head = kv_head * item.group_size + query % item.group_size;
        round_query(call, call->q + row * call->q_stride + head * call->head_size, query, &item);
    }
    score_keys(call, &item);
    for (int64_t query = 0; query < item.num_queries; query++) {
        int64_t own = position + query / item.group_size;
        weigh_keys(call, &item, query, first_seen(call, own) - item.first_key, own + 1 - item.first_key);
    }
    add_values(call, &item);
    for (int64_t query = 0; query < item.num_queries; query++) {
        int64_t row = first_row + query / item.group_size, head = kv_head * item.group_size + query % item.group_size;
        float *restrict out = call->out + (row * call->num_heads + head) * call->head_size;
        const double *sums = item.sums + query * item.padded_size;
        for (int64_t h = 0; h < call->head_size; h++) out[h] = (float)sums[h] * item.weight_scales[query];
    }
}

/* The items hold all the step's queries. */
EXPORT void attention(const struct attention_call *call, int64_t num_tokens) {
    (void)num_tokens;
    int64_t work = 0, num_chunks = call->step->num_items * call->num_kv_heads;
    for (int64_t i = 0; i < call->step->num_items; i++) {
        struct item item = describe(call, call->step->items + i * ITEM_FIELDS);
        work += item.num_keys * item.num_queries * call->num_kv_heads;
    }
    if (work * call->head_size >= SERIAL_PRODUCTS)
        run_chunks(attend_item, call, num_chunks);
    else
        for (int64_t chunk = 0; chunk < num_chunks; chunk++) attend_item(call, chunk, 0);
}
