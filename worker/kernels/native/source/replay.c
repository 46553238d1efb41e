/* Replay of a step's kernels, one after the other, in one call. */
#include "layout.h"

typedef void (*kernel_function)(const void *call, int64_t num_rows);

#define LAUNCH(FIELD)              \
    FIELD(kernel_function, kernel) \
    FIELD(const void *, call)      \
    FIELD(int64_t, rows) /* index into the step's numbers of rows */
SHARED_STRUCT(launch, LAUNCH);
EXPORT_LAYOUT(launch, LAUNCH)

EXPORT void replay(const struct launch *launches, int64_t num_launches, const int64_t *num_rows) {
    for (int64_t i = 0; i < num_launches; i++) launches[i].kernel(launches[i].call, num_rows[launches[i].rows]);
}
