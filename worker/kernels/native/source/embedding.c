/* The gathering of an embedding's rows: of floats as in the file, or of a packed matrix, whose rows are unpacked. The reference
   implementation in torch is in integer.py. */
#include "float_rows.h"
#include "grouped.h"
#include "layout.h"
#include "linear_tiles.h"
#include "pool.h"

#define EMBED_CALL(FIELD)                                                                     \
    FIELD(const void *, table) /* floats [V, D], or panels */                                 \
    FIELD(const struct linear_format *, format) /* of the panels; only embed_packed reads it */ \
    FIELD(const int64_t *, rows)                                                              \
    FIELD(float *, y)                                                                         \
    FIELD(int64_t, size) /* of a row */                                                       \
    FIELD(int64_t, type) /* enum float_type; only embed_floats reads it */
SHARED_STRUCT(embed_call, EMBED_CALL);
EXPORT_LAYOUT(embed_call, EMBED_CALL)

static void read_rows(const void *argument, int64_t first, int64_t end) {
    const struct embed_call *call = argument;
    for (int64_t row = first; row < end; row++)
        read_floats(call->table, call->type, call->rows[row] * call->size, call->size, call->y + row * call->size);
}

EXPORT void embed_floats(const struct embed_call *call, int64_t num_rows) { run_rows(read_rows, call, num_rows, call->size); }

static void unpack_rows(const void *argument, int64_t first, int64_t end) {
    const struct embed_call *call = argument;
    for (int64_t row = first; row < end; row++)
        unpack_grouped_row(call->format, call->table, call->rows[row], call->size, call->y + row * call->size);
}

EXPORT void embed_packed(const struct embed_call *call, int64_t num_rows) { run_rows(unpack_rows, call, num_rows, call->size); }
