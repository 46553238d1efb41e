/* An item of attention.c: its sizes, and its places in the memory of the thread that computes it. */
#ifndef PAGODA_ATTENTION_ITEM_H
#define PAGODA_ATTENTION_ITEM_H

#include "attention_sums.h"

enum { CACHE_LINE = 64 };

/* One item of one KV head: its sizes, and its places in the thread's scratch memory. */
struct item {
    int64_t first_key, num_keys, padded_keys, stride, num_blocks, num_rows, group_size, head_size, padded_size, num_parts;
    const char **keys;                /* [padded_keys] */
    int64_t to_values;                /* in elements: from a key to its value */
    float *key_scales, *value_scales; /* [parts, padded_keys] */
    float *ones, *weighted;           /* [padded_keys]: used if there are several parts */
    int64_t *probability_sums;        /* [rows] */
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
    item->key_scales = take(&place, item->num_parts * keys * sizeof(float));
    item->value_scales = take(&place, item->num_parts * keys * sizeof(float));
    item->ones = take(&place, keys * sizeof(float));
    item->weighted = take(&place, keys * sizeof(float));
    item->probability_sums = take(&place, rows * sizeof(int64_t));
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

#endif
