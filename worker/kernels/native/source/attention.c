/* Attention over pages, for decodes and prefill chunks. The reference implementation in torch, the budgets and the blocks of keys
   are in integer_attention.py.

   An item is a few consecutive queries of one sequence with all query heads of one KV head; these are its rows. Its keys begin
   with the block of the first key that its first query sees and end with the last query's own key. Keys that a query does not
   see get weight zero. */
#include <math.h>

#include "attention_item.h"
#include "attention_sums.h"
#include "attention_weights.h"
#include "hadamard_int8.h"
#include "layout.h"
#include "pool.h"

enum { ITEM_FIELDS = 4 };

/* The sum of weighted values is exact over this many keys. Longer ones are summed in parts, counted from the first key of a
   sequence, so an item with more keys begins there. */
enum { EXACT_KEYS = 1 << 17, EXACT_BLOCKS = EXACT_KEYS / SUM_LENGTH };

/* Keys are prefetched this many keys ahead, which saves a fifth of the time if they come from memory. */
enum { KEYS_AHEAD = 32 };

static const int64_t SERIAL_PRODUCTS = 1 << 17;

/* The description of a step, the same for all layers with the same window. */
#define ATTENTION_STEP(FIELD)                                                                                                    \
    FIELD(const int64_t *, tables) /* [S, table_width] */                                                                        \
    FIELD(const int64_t *, items) /* [items, ITEM_FIELDS]: sequence, first query, number of queries, first position */           \
    FIELD(char *, scratch) /* scratch_bytes for each thread */                                                                   \
    FIELD(int64_t, table_width)                                                                                                  \
    FIELD(int64_t, num_items)                                                                                                    \
    FIELD(int64_t, scratch_bytes)
SHARED_STRUCT(attention_step, ATTENTION_STEP);
EXPORT_LAYOUT(attention_step, ATTENTION_STEP)

#define ATTENTION_CALL(FIELD)                                                          \
    FIELD(const float *, q) /* [T, N, H], tokens q_stride apart */                     \
    FIELD(float *, out) /* [T, N, H] */                                                \
    FIELD(const char *, kv) /* [pages, 2 K, P, H] integers of element_bytes, 1 or 2 */ \
    FIELD(const float *, kv_scales) /* [pages, 2 K, P, parts] */                       \
    FIELD(const struct attention_step *, step)                                         \
    FIELD(int64_t, q_stride)                                                           \
    FIELD(int64_t, num_heads)                                                          \
    FIELD(int64_t, num_kv_heads)                                                       \
    FIELD(int64_t, head_size)                                                          \
    FIELD(int64_t, page_size)                                                          \
    FIELD(int64_t, element_bytes)                                                      \
    FIELD(int64_t, num_parts) /* of a head, of SUM_LENGTH elements each, if more than one */ \
    FIELD(int64_t, window) /* 0: all */                                                \
    FIELD(float, score_factor)                                                         \
    FIELD(float, cap_factor) /* 0: no cap */
SHARED_STRUCT(attention_call, ATTENTION_CALL);
EXPORT_LAYOUT(attention_call, ATTENTION_CALL)

/* Return the scratch memory of a thread; `num_keys` is the number of keys that any query of an item sees. */
EXPORT int64_t attention_scratch_bytes(int64_t num_rows, int64_t num_keys, int64_t head_size, int64_t num_parts) {
    /* The block of the first key may begin before that key. */
    struct item item = {
        .num_rows = num_rows, .num_keys = num_keys + SUM_LENGTH, .head_size = head_size, .num_parts = num_parts};
    char nothing;
    return lay_out(&item, &nothing);
}

/* Copy the scales of consecutive keys, from [keys, parts] to [parts, keys] with parts `stride` apart. */
static void copy_scales(const float *from, int64_t num_keys, int64_t num_parts, int64_t stride, float *restrict to) {
    if (num_parts == 1) memcpy(to, from, num_keys * sizeof(float));
    else
        for (int64_t part = 0; part < num_parts; part++)
            for (int64_t j = 0; j < num_keys; j++) to[part * stride + j] = from[j * num_parts + part];
}

static void find_keys(const struct attention_call *call, const int64_t *table, int64_t kv_head, int bytes,
                      struct item *item) {
    int64_t page_size = call->page_size, rows_to_values = call->num_kv_heads * page_size, run;
    item->to_values = rows_to_values * call->head_size;
    for (int64_t j = 0; j < item->num_keys; j += run) {
        int64_t page = table[(item->first_key + j) / page_size], offset = (item->first_key + j) % page_size;
        int64_t row = (page * 2 * call->num_kv_heads + kv_head) * page_size + offset;
        run = smaller(page_size - offset, item->num_keys - j);
        for (int64_t i = 0; i < run; i++) item->keys[j + i] = call->kv + (row + i) * call->head_size * bytes;
        const float *scales = call->kv_scales + row * item->num_parts;
        copy_scales(scales, run, item->num_parts, item->padded_keys, item->key_scales + j);
        copy_scales(scales + rows_to_values * item->num_parts, run, item->num_parts, item->padded_keys,
                    item->value_scales + j);
    }
    /* After the end, the last key is repeated; no query sees it there. */
    for (int64_t j = item->num_keys; j < item->padded_keys; j++) {
        item->keys[j] = item->keys[item->num_keys - 1];
        for (int64_t part = 0; part < item->num_parts; part++)
            item->key_scales[part * item->padded_keys + j] = item->value_scales[part * item->padded_keys + j] = 0;
    }
    if (item->num_parts > 1)
        for (int64_t j = 0; j < item->padded_keys; j++) item->ones[j] = 1;
}

INLINE float factor_levels(int bytes) { return bytes == 1 ? 1 << 14 : 1 << 12; }

static void round_query(const struct attention_call *call, const float *q, int64_t row, int bytes, struct item *item) {
    float rotated[item->head_size];
    rotate_head(q, item->head_size, 0, rotated);
    float scale = row_scale(rotated, item->head_size, 1.0f / factor_levels(bytes));
    int16_t *restrict integers = item->queries + row * item->padded_size;
    for (int64_t h = 0; h < item->head_size; h++) integers[h] = (int16_t)round_to_int(rotated[h] / scale);
    for (int64_t h = item->head_size; h < item->padded_size; h++) integers[h] = 0;
    item->query_scales[row] = scale * call->score_factor;
}

static void prefetch(const char *row, int64_t num_bytes) {
    for (int64_t i = 0; i < num_bytes; i += CACHE_LINE) __builtin_prefetch(row + i);
}

/* A row has a function of its own, because GCC would otherwise make vectors across rows. */
static APART void add_scaled(const int32_t *sums, double scale, double *restrict whole) {
    for (int i = 0; i < TILE_WIDTH; i++) whole[i] += sums[i] * scale;
}

static APART void scale_products(const double *products, float query_scale, const float *key_scales,
                                    float *restrict scores) {
    for (int i = 0; i < TILE_WIDTH; i++) scores[i] = (float)products[i] * query_scale * key_scales[i];
}

static APART void add_scaled_products(const int32_t *sums, float query_scale, const float *key_scales,
                                      float *restrict scores) {
    for (int i = 0; i < TILE_WIDTH; i++) scores[i] += (float)sums[i] * query_scale * key_scales[i];
}

/* Add what a part of a head, with scales of its own, contributes to the scores of the tile's keys for some rows. */
static void score_part(const struct item *item, int64_t j, int64_t row, int64_t num_rows, int64_t part) {
    int32_t sums[ROWS_AT_ONCE][TILE_WIDTH];
    int64_t h = part * SUM_LENGTH, num_pairs = smaller(item->padded_size - h, SUM_LENGTH) / 2;
    multiply_tile(item->queries + row * item->padded_size + h, item->padded_size, item->tile + h * TILE_WIDTH, num_pairs,
                  num_rows, sums);
    for (int64_t r = 0; r < num_rows; r++) {
        float *scores = item->scores + (row + r) * item->stride + j;
        if (part == 0) memset(scores, 0, TILE_WIDTH * sizeof(float));
        add_scaled_products(sums[r], item->query_scales[row + r], item->key_scales + part * item->padded_keys + j, scores);
    }
}

/* Compute the scores of the tile's keys, from j on, for some rows. */
static void score_rows(const struct item *item, int64_t j, int64_t row, int64_t num_rows) {
    double products[ROWS_AT_ONCE][TILE_WIDTH] = {{0}};
    for (int64_t h = 0; h < item->padded_size; h += SUM_LENGTH) {
        int32_t sums[ROWS_AT_ONCE][TILE_WIDTH];
        int64_t num_pairs = smaller(item->padded_size - h, SUM_LENGTH) / 2;
        multiply_tile(item->queries + row * item->padded_size + h, item->padded_size, item->tile + h * TILE_WIDTH, num_pairs,
                      num_rows, sums);
        for (int64_t r = 0; r < num_rows; r++) add_scaled(sums[r], 1, products[r]);
    }
    for (int64_t r = 0; r < num_rows; r++)
        scale_products(products[r], item->query_scales[row + r], item->key_scales + j,
                       item->scores + (row + r) * item->stride + j);
}

INLINE void score_keys(const struct item *item, int bytes) {
    int64_t row_bytes = item->head_size * bytes;
    for (int64_t j = 0; j < item->num_keys; j += TILE_WIDTH) {
        for (int64_t i = j; i < smaller(j + TILE_WIDTH, item->num_keys); i++) {
            if (i + KEYS_AHEAD < item->num_keys) prefetch(item->keys[i + KEYS_AHEAD], row_bytes);
            prefetch(item->keys[i] + item->to_values * bytes, row_bytes);
        }
        for (int64_t h = 0; h < item->padded_size; h += PIECE)
            place_keys(item->keys + j, h, bytes, item->tile + h * TILE_WIDTH);
        for (int64_t row = 0; row < item->num_rows; row += ROWS_AT_ONCE) {
            int64_t num_rows = smaller(item->num_rows - row, ROWS_AT_ONCE);
            if (item->num_parts == 1) score_rows(item, j, row, num_rows);
            else
                for (int64_t part = 0; part < item->num_parts; part++) score_part(item, j, row, num_rows, part);
        }
    }
}

static void hide(float *scores, int64_t start, int64_t first, int64_t end, int64_t stop, float value) {
    for (int64_t j = start; j < first; j++) scores[j] = value;
    for (int64_t j = end; j < stop; j++) scores[j] = value;
}

/* Convert the scores of the keys [first, end), which the row sees, into weights; return the sum of the probabilities.

   If a head has several parts, the weights are the probabilities; weigh_part multiplies them with a part's scales. */
static int64_t weigh_keys(const struct attention_call *call, struct item *item, int64_t row, int64_t first, int64_t end) {
    /* Whole tiles are weighed, because that is faster than stopping at `end`. Keys that the row does not see are hidden before
       and after. */
    int64_t start = first / TILE_WIDTH * TILE_WIDTH, stop = round_up(end, TILE_WIDTH);
    float *scores = item->scores + row * item->stride;
    if (call->cap_factor != 0)
        for (int64_t j = start; j < stop; j++) scores[j] = tanh_by_exp2(scores[j]) * call->cap_factor;
    hide(scores, start, first, end, stop, -INFINITY);
    float largest = largest_score(scores + start, stop - start);
    const float *scales = item->num_parts == 1 ? item->value_scales : item->ones;
    int64_t total = weigh(scores + start, scales + start, stop - start, largest);
    hide(scores, start, first, end, stop, 0);
    hide(scores, 0, start, stop, item->padded_keys, 0);
    return total;
}

/* Return the row's weights of the values of one part of a head; `first` and `end` as above. */
static const float *weigh_part(const struct item *item, int64_t row, int64_t part, int64_t first, int64_t end) {
    const float *probabilities = item->scores + row * item->stride, *scales = item->value_scales + part * item->padded_keys;
    if (item->num_parts == 1) return probabilities;
    for (int64_t j = first; j < end; j++) item->weighted[j] = probabilities[j] * scales[j];
    hide(item->weighted, 0, first, end, item->padded_keys, 0);
    return item->weighted;
}

/* Round a row's weights to integers, block by block. */
static void round_row(struct item *item, int64_t row, const float *weights, int64_t total, float half_levels) {
    float *powers = item->powers + row * item->num_blocks, faintest = 0;
    for (int64_t block = 0; block < item->num_blocks; block++) {
        powers[block] = largest_power(weights + block * SUM_LENGTH, SUM_LENGTH);
        faintest = powers[block] > faintest ? powers[block] : faintest;
    }
    faintest *= 1.0f / (1 << FAINTEST_BLOCK);
    for (int64_t block = 0; block < item->num_blocks; block++) {
        float power = powers[block] < faintest ? faintest : powers[block];
        round_weights(weights + block * SUM_LENGTH, item->weights + row * item->stride + block * SUM_LENGTH, SUM_LENGTH,
                      half_levels / power);
        item->block_scales[row * item->num_blocks + block] = power / faintest;
    }
    item->weight_scales[row] = faintest / half_levels / (float)((double)total * (1.0 / (1 << PROBABILITY_BITS)));
}

/* Add TILE_WIDTH elements, from h on, of a block's values to the sums of all rows. */
INLINE void add_block(struct item *item, int64_t block, int64_t h, int bytes) {
    int64_t first = block * SUM_LENGTH, num_keys = round_up(smaller(item->num_keys - first, SUM_LENGTH), 2);
    for (int64_t j = 0; j < num_keys; j += 2)
        place_values(item->keys[first + j], item->keys[first + j + 1], item->to_values + h, bytes,
                     item->tile + j * TILE_WIDTH);
    for (int64_t row = 0; row < item->num_rows; row += ROWS_AT_ONCE) {
        int64_t num_rows = smaller(item->num_rows - row, ROWS_AT_ONCE);
        int32_t sums[ROWS_AT_ONCE][TILE_WIDTH];
        multiply_tile(item->weights + row * item->stride + first, item->stride, item->tile, num_keys / 2, num_rows, sums);
        for (int64_t r = 0; r < num_rows; r++)
            add_scaled(sums[r], item->block_scales[(row + r) * item->num_blocks + block],
                       item->sums + (row + r) * item->padded_size + h);
    }
}

/* Compute the sums of all rows' weighted values, of the elements [start, end) of a head. */
INLINE void add_values(struct item *item, int64_t start, int64_t end, int bytes) {
    int64_t size = item->num_rows * item->padded_size;
    memset(item->sums, 0, size * sizeof(double));
    memset(item->totals, 0, size * sizeof(double));
    for (int64_t block = 0; block < item->num_blocks; block++) {
        if (block > 0 && block % EXACT_BLOCKS == 0) {
            for (int64_t i = 0; i < size; i++) item->totals[i] += item->sums[i];
            memset(item->sums, 0, size * sizeof(double));
        }
        for (int64_t h = start; h < end; h += PIECE) add_block(item, block, h, bytes);
    }
    for (int64_t i = 0; i < size; i++) item->sums[i] += item->totals[i];
}

static int64_t first_seen(const struct attention_call *call, int64_t position) {
    return call->window > 0 && position >= call->window ? position - call->window + 1 : 0;
}

/* Compute the results of one part of a head for all rows. */
INLINE void attend_part(const struct attention_call *call, struct item *item, const int64_t *fields, int64_t first_head,
                        int64_t part, int bytes) {
    int64_t first_query = fields[1], position = fields[3], size = item->head_size;
    int64_t start = item->num_parts == 1 ? 0 : part * SUM_LENGTH;
    int64_t end = item->num_parts == 1 ? size : smaller(start + SUM_LENGTH, size);
    for (int64_t row = 0; row < item->num_rows; row++) {
        int64_t own = position + row / item->group_size;
        const float *weights =
            weigh_part(item, row, part, first_seen(call, own) - item->first_key, own + 1 - item->first_key);
        round_row(item, row, weights, item->probability_sums[row], factor_levels(bytes) / 2);
    }
    add_values(item, start, end, bytes);
    for (int64_t row = 0; row < item->num_rows; row++) {
        int64_t query = first_query + row / item->group_size, head = first_head + row % item->group_size;
        float *restrict out = call->out + (query * call->num_heads + head) * size;
        const double *sums = item->sums + row * item->padded_size;
        for (int64_t h = start; h < end; h++) out[h] = (float)sums[h] * item->weight_scales[row];
    }
}

static struct item describe(const struct attention_call *call, const int64_t *fields) {
    int64_t num_queries = fields[2], position = fields[3], group_size = call->num_heads / call->num_kv_heads;
    int64_t first_key = call->window > EXACT_KEYS ? 0 : first_seen(call, position) / SUM_LENGTH * SUM_LENGTH;
    return (struct item){.first_key = first_key,
                         .num_keys = position + num_queries - first_key,
                         .num_rows = num_queries * group_size,
                         .group_size = group_size,
                         .head_size = call->head_size,
                         .num_parts = call->num_parts};
}

INLINE void attend(const struct attention_call *call, int64_t chunk, int thread, int bytes) {
    const struct attention_step *step = call->step;
    const int64_t *fields = step->items + chunk / call->num_kv_heads * ITEM_FIELDS;
    int64_t kv_head = chunk % call->num_kv_heads, first_query = fields[1], position = fields[3];
    struct item item = describe(call, fields);
    int64_t first_head = kv_head * item.group_size;
    lay_out(&item, step->scratch + thread * step->scratch_bytes);
    find_keys(call, step->tables + fields[0] * step->table_width, kv_head, bytes, &item);
    for (int64_t row = 0; row < item.num_rows; row++) {
        int64_t query = first_query + row / item.group_size, head = first_head + row % item.group_size;
        round_query(call, call->q + query * call->q_stride + head * item.head_size, row, bytes, &item);
    }
    score_keys(&item, bytes);
    for (int64_t row = 0; row < item.num_rows; row++) {
        int64_t own = position + row / item.group_size;
        item.probability_sums[row] =
            weigh_keys(call, &item, row, first_seen(call, own) - item.first_key, own + 1 - item.first_key);
    }
    for (int64_t part = 0; part < item.num_parts; part++) attend_part(call, &item, fields, first_head, part, bytes);
}

static void attend_item(const void *argument, int64_t chunk, int thread) {
    const struct attention_call *call = argument;
    if (call->element_bytes == 1) attend(call, chunk, thread, 1);
    else attend(call, chunk, thread, 2);
}

/* num_tokens is not used, because the items hold all queries of the step. */
EXPORT void attention(const struct attention_call *call, int64_t num_tokens) {
    (void)num_tokens;
    int64_t work = 0, num_chunks = call->step->num_items * call->num_kv_heads;
    for (int64_t i = 0; i < call->step->num_items; i++) {
        struct item item = describe(call, call->step->items + i * ITEM_FIELDS);
        work += item.num_keys * item.num_rows * call->num_kv_heads;
    }
    if (work * call->head_size >= SERIAL_PRODUCTS)
        run_chunks(attend_item, call, num_chunks);
    else
        for (int64_t chunk = 0; chunk < num_chunks; chunk++) attend_item(call, chunk, 0);
}
