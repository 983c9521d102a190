/* common/sub1/bench/read_wide.h: reading memory, in vectors of VECTOR_BYTES, which the including file has defined. All is static: each file
 * gets its own copy, compiled for its instruction set. */
#ifndef FS_BENCH_READ_WIDE_H
#define FS_BENCH_READ_WIDE_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t vector __attribute__((vector_size(VECTOR_BYTES), aligned(VECTOR_BYTES)));
enum { STEP = 256 };

/* In order: prefetchers go by the order of loads, which a compiler that unrolls loops does not keep. */
static inline vector load(const uint8_t *from)
{
    vector v = *(const vector *)(const void *)from;
    __asm__ volatile("" : : : "memory");
    return v;
}

/* Four sums, lest loads wait for one. burst: bytes of a stream's turn, a multiple of STEP. */
static inline __attribute__((always_inline)) uint64_t read_streams(const uint8_t *from, size_t size,
                                                                   const size_t streams, const size_t burst)
{
    vector a = {0}, b = a, c = a, d = a;
    const size_t each = size / streams / burst * burst;
    for (size_t i = 0; i < each; i += burst)
        for (size_t s = 0; s < streams; s++)
            for (const uint8_t *at = from + s * each + i, *end = at + burst; at < end; at += STEP) {
                for (size_t k = 0; k < STEP; k += 4 * VECTOR_BYTES) {
                    a ^= load(at + k);
                    b ^= load(at + k + VECTOR_BYTES);
                    c ^= load(at + k + 2 * VECTOR_BYTES);
                    d ^= load(at + k + 3 * VECTOR_BYTES);
                }
            }
    for (size_t at = each * streams; at < size; at += VECTOR_BYTES) a ^= load(from + at);
    a ^= b ^ c ^ d;
    uint64_t all = 0;
    for (size_t k = 0; k < VECTOR_BYTES / sizeof(uint64_t); k++) all ^= a[k];
    return all;
}

static inline uint64_t read_any(const uint8_t *from, size_t size, uint32_t pattern)
{
    switch (pattern) {
    case 0: return read_streams(from, size, 1, STEP);
    case 1: return read_streams(from, size, 2, STEP);
    case 2: return read_streams(from, size, 2, 2048);
    default: return read_streams(from, size, 4, 2048);
    }
}

#endif
