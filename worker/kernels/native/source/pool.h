/* A pool of threads that divide the chunks of one job at a time among them. */
#ifndef PAGODA_POOL_H
#define PAGODA_POOL_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef void (*chunk_function)(const void *call, int64_t chunk, int thread);
typedef void (*rows_function)(const void *call, int64_t first, int64_t end);

/* Set the number of threads, including the caller's. */
EXPORT void set_threads(int64_t num_threads);
int num_threads(void);

/* Run function(call, chunk, thread) for all chunks in [0, num_chunks) and return when all have run. Idle threads take the next
   chunk, so a thread that gets no core does not delay the others. `thread` is less than num_threads(). */
void run_chunks(chunk_function function, const void *call, int64_t num_chunks);

/* Run a function over rows, in chunks. Few elements are computed by the caller alone. */
void run_rows(rows_function function, const void *call, int64_t num_rows, int64_t row_size);

#endif
