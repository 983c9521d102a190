/* common/sub1/bench/memory.c */
#include "bench/memory.h"

#include <sys/mman.h>

#include "compute/kernels.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum { LINE = 64 };

uint8_t *fs_bench_map(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return NULL;
    madvise(at, size, MADV_NOHUGEPAGE); /* a kernel without huge pages refuses, and does as wanted */
    return at;
}

void fs_bench_unmap(uint8_t *bytes, size_t size)
{
    if (bytes) munmap(bytes, size);
}

bool fs_bench_flush(const uint8_t *from, size_t size)
{
#if defined(__x86_64__)
    for (size_t i = 0; i < size; i += LINE) _mm_clflush(from + i);
    _mm_mfence();
    return true;
#elif defined(__aarch64__)
    for (size_t i = 0; i < size; i += LINE) __asm__ volatile("dc civac, %0" : : "r"(from + i) : "memory");
    __asm__ volatile("dsb ish" : : : "memory");
    return true;
#else
    return false;
#endif
}

uint32_t fs_bench_read_ways(void)
{
#if defined(__x86_64__)
    fs_isa isa = fs_isa_best();
    uint32_t widths = isa >= FS_ISA_AVX512 ? 3 : isa >= FS_ISA_AVX2 ? 2 : 1;
#else
    uint32_t widths = 1;
#endif
    return widths * FS_BENCH_READ_PATTERNS;
}

uint64_t fs_bench_read(const uint8_t *from, size_t size, uint32_t way)
{
    const uint32_t pattern = way % FS_BENCH_READ_PATTERNS;
#if defined(__x86_64__)
    if (way >= 2 * FS_BENCH_READ_PATTERNS) return fs_bench_read_avx512(from, size, pattern);
    if (way >= FS_BENCH_READ_PATTERNS) return fs_bench_read_avx2(from, size, pattern);
#endif
    return fs_bench_read_plain(from, size, pattern);
}
