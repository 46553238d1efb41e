/* Attention over pages, for decodes and prefill chunks. The reference implementation in torch, the budgets and the blocks of keys
   are in integer_attention.py.

   An item is a few consecutive queries of one sequence with all query heads of one KV head; these are its rows. Its keys begin
   with the block of the first key that its first query sees and end with the last query's own key. Keys that a query does not
   see get weight zero. */
#include <math.h>

#include "attention_sums.h"
#include "attention_weights.h"
#include "layout.h"
#include "pool.h"

enum { ITEM_FIELDS = 4, CACHE_LINE = 64 };

/* The sum of weighted values is exact over this many keys. Longer ones are summed in parts, counted from the first key of a
   sequence, so an item with more keys begins there. */
enum { EXACT_KEYS = 1 << 17, EXACT_BLOCKS = EXACT_KEYS / SUM_LENGTH };

/* Keys are prefetched this many keys ahead, which saves a fifth of the time if they come from memory. */
enum { KEYS_AHEAD = 32 };

static const int64_t SERIAL_PRODUCTS = 1 << 17;

/* The description of a step, the same for all layers with the same window. */
#define ATTENTION_STEP(FIELD)                                                                                                     \
    FIELD(const int64_t *, tables) /* [S, table_width] */                                                                         \
    FIELD(const int64_t *, items) /* [items, ITEM_FIELDS]: sequence, first query, number of queries, position of the first one */ \
    FIELD(char *, scratch) /* scratch_bytes for each thread */                                                                    \
    FIELD(int64_t, table_width)                                                                                                   \
    FIELD(int64_t, num_items)                                                                                                     \
    FIELD(int64_t, scratch_bytes)
SHARED_STRUCT(attention_step, ATTENTION_STEP);
EXPORT_LAYOUT(attention_step, ATTENTION_STEP)

#define ATTENTION_CALL(FIELD)                                                          \
    FIELD(const float *, q) /* [T, N, H], tokens q_stride apart */                     \
    FIELD(float *, out) /* [T, N, H] */                                                \
    FIELD(const char *, kv) /* [pages, 2 K, P, H] integers of element_bytes, 1 or 2 */ \
    FIELD(const float *, kv_scales) /* [pages, 2 K, P] */                              \
    FIELD(const struct attention_step *, step)                                         \
    FIELD(int64_t, q_stride)                                                           \
    FIELD(int64_t, num_heads)                                                          \
    FIELD(int64_t, num_kv_heads)                                                       \
    FIELD(int64_t, head_size)                                                          \
    FIELD(int64_t, page_size)                                                          \
    FIELD(int64_t, element_bytes)                                                      \
    FIELD(int64_t, window) /* 0: all */                                                \
    FIELD(float, score_factor)                                                         \
    FIELD(float, cap_factor) /* 0: no cap */
SHARED_STRUCT(attention_call, ATTENTION_CALL);
EXPORT_LAYOUT(attention_call, ATTENTION_CALL)

/* One item of one KV head: its sizes, and its places in the thread's scratch memory. */
struct item {
    int64_t first_key, num_keys, padded_keys, stride, num_blocks, num_rows, group_size, head_size, padded_size;
    const char **keys;                /* [padded_keys] */
    int64_t to_values;                /* in elements: from a key to its value */
    float *key_scales, *value_scales; /* [padded_keys] */
    int16_t *queries;                 /* [rows, padded_size] */
    float *query_scales;              /* [rows] */
    float *scores;                    /* [rows, stride] */
    int16_t *weights;                 /* [rows, stride] */
    float *powers;                    /* [rows, blocks]: the largest power of two that is not above the block's largest weight */
    double *block_scales;             /* [rows, blocks] */
    float *weight_scales;             /* [rows] */
    int16_t *tile;                    /* [pairs of a head or of a block, TILE_WIDTH, 2] */
    double *sums, *totals;            /* [rows, padded_size]: of the current part, and of those before it */
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }
static int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

static void *take(char **place, int64_t num_bytes) {
    void *taken = *place;
    *place += round_up(num_bytes, CACHE_LINE);
    return taken;
}

/* Assign the item's places in memory from `scratch` on; return their total size in bytes. */
static int64_t lay_out(struct item *item, char *scratch) {
    char *place = scratch;
    int64_t rows = item->num_rows, keys = item->padded_keys = round_up(item->num_keys, SUM_LENGTH);
    int64_t size = item->padded_size = round_up(item->head_size, PIECE);
    int64_t blocks = item->num_blocks = keys / SUM_LENGTH;
    /* Rows that are a power of two apart would share the same cache sets. */
    int64_t stride = item->stride = keys + CACHE_LINE / (int64_t)sizeof(float);
    item->keys = take(&place, keys * sizeof(char *));
    item->key_scales = take(&place, keys * sizeof(float));
    item->value_scales = take(&place, keys * sizeof(float));
    item->queries = take(&place, rows * size * sizeof(int16_t));
    item->query_scales = take(&place, rows * sizeof(float));
    item->scores = take(&place, rows * stride * sizeof(float));
    item->weights = take(&place, rows * stride * sizeof(int16_t));
    item->powers = take(&place, rows * blocks * sizeof(float));
    item->block_scales = take(&place, rows * blocks * sizeof(double));
    item->weight_scales = take(&place, rows * sizeof(float));
    item->tile = take(&place, larger(size, SUM_LENGTH) * TILE_WIDTH * sizeof(int16_t));
    item->sums = take(&place, rows * size * sizeof(double));
    item->totals = take(&place, rows * size * sizeof(double));
    return place - scratch;
}

/* Return the scratch memory of a thread; `num_keys` is the number of keys that any query of an item sees. */
EXPORT int64_t attention_scratch_bytes(int64_t num_rows, int64_t num_keys, int64_t head_size) {
    /* The block of the first key may begin before that key. */
    struct item item = {.num_rows = num_rows, .num_keys = num_keys + SUM_LENGTH, .head_size = head_size};
    char nothing;
    return lay_out(&item, &nothing);
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
        memcpy(item->key_scales + j, call->kv_scales + row, run * sizeof(float));
        memcpy(item->value_scales + j, call->kv_scales + row + rows_to_values, run * sizeof(float));
    }
    /* After the end, the last key is repeated; no query sees it there. */
    for (int64_t j = item->num_keys; j < item->padded_keys; j++) {
        item->keys[j] = item->keys[item->num_keys - 1];
        item->key_scales[j] = item->value_scales[j] = 0;
    }
}

INLINE float factor_levels(int bytes) { return bytes == 1 ? 1 << 14 : 1 << 12; }

static void round_query(const struct attention_call *call, const float *q, int64_t row, int bytes, struct item *item) {
    float scale = row_scale(q, item->head_size, 1.0f / factor_levels(bytes));
    int16_t *restrict integers = item->queries + row * item->padded_size;
    for (int64_t h = 0; h < item->head_size; h++) integers[h] = (int16_t)round_to_int(q[h] / scale);
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
        for (int64_t row = 0; row < item->num_rows; row += ROWS_AT_ONCE)
            score_rows(item, j, row, smaller(item->num_rows - row, ROWS_AT_ONCE));
    }
}

static void hide(float *scores, int64_t start, int64_t first, int64_t end, int64_t stop, float value) {
    for (int64_t j = start; j < first; j++) scores[j] = value;
    for (int64_t j = end; j < stop; j++) scores[j] = value;
}

/* Convert the scores of the keys [first, end), which the row sees, into weights; return the sum of the probabilities. */
static int64_t weigh_keys(const struct attention_call *call, struct item *item, int64_t row, int64_t first, int64_t end) {
    /* Whole tiles are weighed, because that is faster than stopping at `end`. Keys that the row does not see are hidden before and
       after. */
    int64_t start = first / TILE_WIDTH * TILE_WIDTH, stop = round_up(end, TILE_WIDTH);
    float *scores = item->scores + row * item->stride;
    if (call->cap_factor != 0)
        for (int64_t j = start; j < stop; j++) scores[j] = tanh_by_exp2(scores[j]) * call->cap_factor;
    hide(scores, start, first, end, stop, -INFINITY);
    float largest = largest_score(scores + start, stop - start);
    int64_t total = weigh(scores + start, item->value_scales + start, stop - start, largest);
    hide(scores, start, first, end, stop, 0);
    hide(scores, 0, start, stop, item->padded_keys, 0);
    return total;
}

/* Round a row's weights to integers, block by block. */
static void round_row(struct item *item, int64_t row, int64_t total, float half_levels) {
    const float *weights = item->scores + row * item->stride;
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

/* Compute the sums of all rows' weighted values. */
INLINE void add_values(struct item *item, int bytes) {
    int64_t size = item->num_rows * item->padded_size;
    memset(item->sums, 0, size * sizeof(double));
    memset(item->totals, 0, size * sizeof(double));
    for (int64_t block = 0; block < item->num_blocks; block++) {
        if (block > 0 && block % EXACT_BLOCKS == 0) {
            for (int64_t i = 0; i < size; i++) item->totals[i] += item->sums[i];
            memset(item->sums, 0, size * sizeof(double));
        }
        for (int64_t h = 0; h < item->padded_size; h += PIECE) add_block(item, block, h, bytes);
    }
    for (int64_t i = 0; i < size; i++) item->sums[i] += item->totals[i];
}

static int64_t first_seen(const struct attention_call *call, int64_t position) {
    return call->window > 0 && position >= call->window ? position - call->window + 1 : 0;
}

static struct item describe(const struct attention_call *call, const int64_t *fields) {
    int64_t num_queries = fields[2], position = fields[3], group_size = call->num_heads / call->num_kv_heads;
    int64_t first_key = call->window > EXACT_KEYS ? 0 : first_seen(call, position) / SUM_LENGTH * SUM_LENGTH;
    return (struct item){.first_key = first_key,
                         .num_keys = position + num_queries - first_key,
                         .num_rows = num_queries * group_size,
                         .group_size = group_size,
                         .head_size = call->head_size};
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
        int64_t total =
            weigh_keys(call, &item, row, first_seen(call, own) - item.first_key, own + 1 - item.first_key);
        round_row(&item, row, total, factor_levels(bytes) / 2);
    }
    add_values(&item, bytes);
    for (int64_t row = 0; row < item.num_rows; row++) {
        int64_t query = first_query + row / item.group_size, head = first_head + row % item.group_size;
        float *restrict out = call->out + (query * call->num_heads + head) * item.head_size;
        const double *sums = item.sums + row * item.padded_size;
        for (int64_t h = 0; h < item.head_size; h++) out[h] = (float)sums[h] * item.weight_scales[row];
    }
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
