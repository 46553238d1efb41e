/* A step's kernels one after the other, in one call. */
#include "pool.h"

struct launch {
    void (*kernel)(const void *call, int64_t num_rows);
    const void *call;
    int64_t rows; /* which of the step's numbers of rows it takes */
};

EXPORT void replay(const struct launch *launches, int64_t num_launches, const int64_t *num_rows) {
    for (int64_t i = 0; i < num_launches; i++) launches[i].kernel(launches[i].call, num_rows[launches[i].rows]);
}
