/* common/sub1/bench/read_avx512.c: reading memory in loads of 64 bytes. */
#include "bench/memory.h"

#define VECTOR_BYTES 64
#include "bench/read_wide.h"

uint64_t fs_bench_read_avx512(const uint8_t *from, size_t size, uint32_t pattern)
{
    return read_any(from, size, pattern);
}
