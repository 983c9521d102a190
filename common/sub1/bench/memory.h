/* common/sub1/bench/memory.h: memory that contestants are read from, the way out of the caches, and how fast a plain read is. */
#ifndef FS_BENCH_MEMORY_H
#define FS_BENCH_MEMORY_H

#include "base/status.h"

/* Zeros, in pages of the usual size whatever the machine prefers: the files that a node maps have no others, so no contestant has. NULL: no
 * memory. */
uint8_t *fs_bench_map(size_t size);
void fs_bench_unmap(uint8_t *bytes, size_t size); /* NULL is fine */

/* Out of every cache. False: this machine has no instruction for it. */
bool fs_bench_flush(const uint8_t *from, size_t size);

/* Reads every byte, size being a multiple of 64, in one of several ways: as one stream, or as two or four that begin a share of the bytes apart
 * and take turns, a few lines or half a page each; with narrow loads or wide ones. Which is the fastest is found by trying: the widest are from
 * a near cache, not always from memory. Returns something of every byte, lest a compiler leave the reading out. */
uint64_t fs_bench_read(const uint8_t *from, size_t size, uint32_t way);
uint32_t fs_bench_read_ways(void); /* that this machine has, and FORESIGHT_ISA allows */

/* The ways of one width of loads, a file each. */
#define FS_BENCH_READ_PATTERNS 4u
typedef uint64_t fs_bench_reader(const uint8_t *from, size_t size, uint32_t pattern);
fs_bench_reader fs_bench_read_plain, fs_bench_read_avx2, fs_bench_read_avx512;

#endif
