/* One word, the ticket, holds the number of the running job (high half) and of its next chunk (low half).

   A helper reads the ticket, then the job, then takes the chunk by compare-and-swap. The caller closes the ticket before it
   writes the next job, so that a helper that has read parts of two jobs cannot take a chunk of either. */
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

enum { MAX_HELPERS = 255, PAUSES_PER_LOOK = 32, WAIT_PAUSES = 4000 };

/* How long an idle thread spins before it sleeps. It is longer than the time between two kernels of a step, and shorter than the
   time between two steps, in which other processes need the cores. */
static const int64_t SPIN_NS = 100000;
static const uint32_t CLOSED = UINT32_MAX;
static const int64_t SERIAL_ELEMENTS = 16384;

static _Atomic uint64_t ticket;
static _Atomic(chunk_function) job_function;
static _Atomic(const void *) job_call;
static _Atomic uint32_t job_chunks;
static _Atomic uint32_t chunks_done;
static _Atomic int helpers_wanted;
static _Atomic int num_sleeping;

static int helpers_started;
static pthread_mutex_t job_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t job_posted = PTHREAD_COND_INITIALIZER;

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool run_next_chunk(int thread) {
    uint64_t seen = atomic_load(&ticket);
    chunk_function function = atomic_load(&job_function);
    const void *call = atomic_load(&job_call);
    uint32_t chunk = (uint32_t)seen;
    if (chunk == CLOSED || chunk >= atomic_load(&job_chunks)) return false;
    if (!atomic_compare_exchange_strong(&ticket, &seen, seen + 1)) return true;
    function(call, chunk, thread);
    atomic_fetch_add(&chunks_done, 1);
    return true;
}

static void sleep_until_posted(uint32_t job) {
    pthread_mutex_lock(&sleep_lock);
    atomic_fetch_add(&num_sleeping, 1);
    while ((uint32_t)(atomic_load(&ticket) >> 32) == job) pthread_cond_wait(&job_posted, &sleep_lock);
    atomic_fetch_sub(&num_sleeping, 1);
    pthread_mutex_unlock(&sleep_lock);
}

static void *help(void *argument) {
    int thread = (int)(intptr_t)argument;
    for (;;) {
        uint32_t job = (uint32_t)(atomic_load(&ticket) >> 32);
        int64_t give_up = now_ns() + SPIN_NS;
        if (thread <= atomic_load(&helpers_wanted)) {
            while (run_next_chunk(thread)) {}
            while ((uint32_t)(atomic_load(&ticket) >> 32) == job && now_ns() < give_up)
                for (int i = 0; i < PAUSES_PER_LOOK; i++) pause_briefly();
        }
        if ((uint32_t)(atomic_load(&ticket) >> 32) == job) sleep_until_posted(job);
    }
    return NULL;
}

static void start_helper(int thread) {
    pthread_t started;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    /* If the helper cannot be created, the other threads compute its share. */
    pthread_create(&started, &detached, help, (void *)(intptr_t)thread);
    pthread_attr_destroy(&detached);
}

void set_threads(int64_t wanted) {
    int helpers = wanted < 1 ? 0 : wanted > MAX_HELPERS ? MAX_HELPERS : (int)wanted - 1;
    if (helpers == atomic_load(&helpers_wanted)) return;
    pthread_mutex_lock(&job_lock);
    atomic_store(&helpers_wanted, helpers);
    while (helpers_started < helpers) start_helper(++helpers_started);
    pthread_mutex_unlock(&job_lock);
}

int num_threads(void) { return atomic_load(&helpers_wanted) + 1; }

static void post(chunk_function function, const void *call, uint32_t num_chunks) {
    uint64_t next_job = ((atomic_load(&ticket) >> 32) + 1) << 32;
    atomic_store(&ticket, next_job | CLOSED);
    atomic_store(&job_function, function);
    atomic_store(&job_call, call);
    atomic_store(&job_chunks, num_chunks);
    atomic_store(&chunks_done, 0);
    atomic_store(&ticket, next_job);
    if (atomic_load(&num_sleeping) > 0) {
        pthread_mutex_lock(&sleep_lock);
        pthread_cond_broadcast(&job_posted);
        pthread_mutex_unlock(&sleep_lock);
    }
}

void run_chunks(chunk_function function, const void *call, int64_t num_chunks) {
    bool alone = num_chunks < 2 || num_threads() == 1 || pthread_mutex_trylock(&job_lock) != 0;
    if (alone) {
        for (int64_t chunk = 0; chunk < num_chunks; chunk++) function(call, chunk, 0);
        return;
    }
    post(function, call, (uint32_t)num_chunks);
    while (run_next_chunk(0)) {}
    for (int pauses = 0; atomic_load(&chunks_done) != (uint32_t)num_chunks; pauses++) {
        if (pauses < WAIT_PAUSES) pause_briefly();
        else sched_yield();
    }
    pthread_mutex_unlock(&job_lock);
}

struct rows_call {
    rows_function function;
    const void *call;
    int64_t num_rows, rows_per_chunk;
};

static void run_some_rows(const void *argument, int64_t chunk, int thread) {
    (void)thread;
    const struct rows_call *rows = argument;
    int64_t first = chunk * rows->rows_per_chunk, end = first + rows->rows_per_chunk;
    rows->function(rows->call, first, end < rows->num_rows ? end : rows->num_rows);
}

void run_rows(rows_function function, const void *call, int64_t num_rows, int64_t row_size) {
    int64_t chunks = num_rows * row_size < 2 * SERIAL_ELEMENTS ? 1 : 4 * num_threads();
    int64_t rows_per_chunk = (num_rows + chunks - 1) / chunks;
    if (num_rows == 0) return;
    struct rows_call rows = {function, call, num_rows, rows_per_chunk};
    run_chunks(run_some_rows, &rows, (num_rows + rows_per_chunk - 1) / rows_per_chunk);
}
