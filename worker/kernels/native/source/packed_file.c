/* Reading of packed weights from a file, on all threads, with a checksum for each piece.

   A checksum finds damage, not forgery: if one word of 32 bits of a piece changes, its lane's sum certainly changes. */
#include <string.h>
#include <unistd.h>

#include "arithmetic.h"
#include "layout.h"
#include "pool.h"

enum { SUM_LANES = 32 };
static const uint32_t FIRST = 0x811c9dc5, FACTOR = 0x9e3779b1;

#define PACKED_FILE_CALL(FIELD)                                                      \
    FIELD(int64_t, file) /* descriptor to read from, or -1: memory is only summed */ \
    FIELD(int64_t, offset) /* of the first byte in the file */                       \
    FIELD(uint8_t *, memory)                                                         \
    FIELD(int64_t, num_bytes)                                                        \
    FIELD(int64_t, piece_bytes)                                                      \
    FIELD(uint64_t *, sums) /* of each piece; 0 if it could not be read */
SHARED_STRUCT(packed_file_call, PACKED_FILE_CALL);
EXPORT_LAYOUT(packed_file_call, PACKED_FILE_CALL)

/* Return a sum of the bytes that is not 0. */
static uint64_t sum_bytes(const uint8_t *bytes, int64_t size) {
    uint32_t lanes[SUM_LANES], words[SUM_LANES];
    for (int i = 0; i < SUM_LANES; i++) lanes[i] = FIRST + i;
    for (int64_t place = 0; place < size; place += sizeof words) {
        if (size - place >= (int64_t)sizeof words) memcpy(words, bytes + place, sizeof words);
        else {
            memset(words, 0, sizeof words);
            memcpy(words, bytes + place, size - place);
        }
        for (int i = 0; i < SUM_LANES; i++) lanes[i] = (lanes[i] ^ words[i]) * FACTOR;
    }
    uint64_t sum = (uint64_t)size;
    for (int i = 0; i < SUM_LANES; i++) sum = (sum ^ lanes[i]) * 0x9e3779b97f4a7c15u, sum ^= sum >> 29;
    return sum ? sum : 1;
}

static int read_whole(int file, uint8_t *memory, int64_t size, int64_t offset) {
    while (size > 0) {
        ssize_t count = pread(file, memory, (size_t)size, (off_t)offset);
        if (count <= 0) return 0;
        memory += count, offset += count, size -= count;
    }
    return 1;
}

static void read_piece(const void *argument, int64_t piece, int thread) {
    (void)thread;
    const struct packed_file_call *call = argument;
    int64_t start = piece * call->piece_bytes, left = call->num_bytes - start;
    int64_t size = left < call->piece_bytes ? left : call->piece_bytes;
    int has_bytes = call->file < 0 || read_whole((int)call->file, call->memory + start, size, call->offset + start);
    call->sums[piece] = has_bytes ? sum_bytes(call->memory + start, size) : 0;
}

EXPORT void read_packed(const struct packed_file_call *call) {
    run_chunks(read_piece, call, (call->num_bytes + call->piece_bytes - 1) / call->piece_bytes);
}
