/* common/sub1/bench/read.c: reading memory in loads of 16 bytes. */
#include "bench/memory.h"

#define VECTOR_BYTES 16
#include "bench/read_wide.h"

uint64_t fs_bench_read_plain(const uint8_t *from, size_t size, uint32_t pattern)
{
    return read_any(from, size, pattern);
}
