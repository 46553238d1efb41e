/* Threads that share out the chunks of one job at a time. */
#ifndef PAGODA_POOL_H
#define PAGODA_POOL_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef void (*chunk_function)(const void *call, int64_t chunk, int thread);
typedef void (*rows_function)(const void *call, int64_t first, int64_t end);

/* Compute with so many threads, the caller's included. */
EXPORT void set_threads(int64_t num_threads);
int num_threads(void);

/* Run function(call, chunk, thread) for all chunks in [0, num_chunks) and return when all have run.
   Chunks go to whoever is free, so a thread that gets no core delays nobody. `thread` is below num_threads(). */
void run_chunks(chunk_function function, const void *call, int64_t num_chunks);

/* The same over rows; few elements are not worth waking anyone for. */
void run_rows(rows_function function, const void *call, int64_t num_rows, int64_t row_size);

#endif
