/* common/base/random.h: a seeded generator, the same numbers on every machine. */
#ifndef FS_BASE_RANDOM_H
#define FS_BASE_RANDOM_H

#include <stdint.h>

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014). Any seed is good, 0 included. */
typedef struct {
    uint64_t state;
} fs_random;

static inline uint64_t fs_random_next(fs_random *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
/* 0 <= x < n (n > 0); the bias of the multiplication is below 2^-32. */
static inline uint32_t fs_random_below(fs_random *r, uint32_t n)
{
    return (uint32_t)(((fs_random_next(r) >> 32) * (uint64_t)n) >> 32);
}
/* 0 <= x < 1, 24 bits, exact in float. */
static inline float fs_random_unit(fs_random *r)
{
    return (float)(fs_random_next(r) >> 40) * 0x1p-24f;
}

#endif
