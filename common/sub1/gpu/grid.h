/* common/sub1/gpu/grid.h: the words in which a GPU kernel is written once: nvcc makes a CUDA kernel of it, a C compiler makes
 * loops over the same blocks and threads. A kernel is a sequence of phases; what threads tell each other (shared memory, shuffles)
 * is said in one phase and heard in a later one. It is C17 and C++17 at once: no templates, no compound literals.
 *
 *   FS_KERNEL(name, type) { ... }    a kernel over a list of `type`: (const type *list, uint32_t count)
 *   FS_DEVICE                        a function that kernels call, inlined
 *   FS_BLOCK                         the number of this block; a block has FS_BLOCK_DIM threads
 *   FS_SHARED type name[n];          the block's own memory, not initialised
 *   FS_SHARED_BYTES                  the block's memory whose size the launch states
 *   FS_EACH_THREAD(t) { ... }        one phase: all threads do it, then meet at a barrier. Left by `continue` only
 *   FS_EACH_THREAD_ALONE(t) { ... }  a phase without the barrier, for what no other thread of the block reads
 *   FS_REGISTER(type, name);         a variable of each thread that lives through several phases, read as FS_MINE(name, t)
 *   FS_SHUFFLE_XOR(to, from, mask);  to = from of the thread t ^ mask of the warp; between phases, all threads at once
 *   FS_UNROLL(n)                     before a loop */
#ifndef FS_GPU_GRID_H
#define FS_GPU_GRID_H

#include <stdint.h>

#define FS_BLOCK_DIM 256
#define FS_WARP      32

typedef struct {
    uint32_t x, y;
} fs_u32x2;

#ifdef __CUDACC__

#define FS_KERNEL(name, type)                                                                                \
    extern "C" __global__ void __launch_bounds__(FS_BLOCK_DIM)                                               \
        name(const type *__restrict__ list, uint32_t count)
#define FS_DEVICE static __device__ __forceinline__
#define FS_BLOCK  blockIdx.x
#define FS_SHARED __shared__
extern __shared__ __align__(16) uint8_t fs_shared_bytes[];
#define FS_SHARED_BYTES fs_shared_bytes
#define FS_EACH_THREAD(t)                                                                                    \
    for (uint32_t t = threadIdx.x, t##_left = 1; t##_left != 0; t##_left = 0, __syncthreads())
#define FS_EACH_THREAD_ALONE(t)        for (uint32_t t = threadIdx.x, t##_left = 1; t##_left != 0; t##_left = 0)
#define FS_REGISTER(type, name)        type name
#define FS_MINE(name, t)               name
#define FS_SHUFFLE_XOR(to, from, mask) to = __shfl_xor_sync(0xffffffffu, from, mask)
#define FS_PRAGMA(text)                _Pragma(#text)
#define FS_UNROLL(n)                   FS_PRAGMA(unroll n)

FS_DEVICE uint32_t fs_byte_permute(uint32_t low, uint32_t high, uint32_t selector)
{
    return __byte_perm(low, high, selector);
}
FS_DEVICE void fs_atomic_add(int32_t *at, int32_t v)
{
    atomicAdd(at, v);
}
FS_DEVICE void fs_atomic_max(uint32_t *at, uint32_t v)
{
    atomicMax(at, v);
}
FS_DEVICE uint32_t fs_bits_of(float v)
{
    return __float_as_uint(v);
}
FS_DEVICE float fs_float_of(uint32_t bits)
{
    return __uint_as_float(bits);
}
/* Eight bytes at an address that is a multiple of 8. */
FS_DEVICE fs_u32x2 fs_load_pair(const uint8_t *at)
{
    uint2 v = *(const uint2 *)at;
    fs_u32x2 pair = {v.x, v.y};
    return pair;
}
FS_DEVICE void fs_store_pair(uint8_t *at, uint32_t x, uint32_t y)
{
    *(uint2 *)at = make_uint2(x, y);
}
FS_DEVICE uint32_t fs_load_word(const uint8_t *at)
{
    return *(const uint32_t *)at;
}
FS_DEVICE void fs_store_word(uint8_t *at, uint32_t v)
{
    *(uint32_t *)at = v;
}
/* Of device memory that this kernel does not write. A pointer out of a list could point anywhere, as far as nvcc knows. */
FS_DEVICE uint32_t fs_read_word(const uint8_t *at)
{
    return __ldg((const uint32_t *)at);
}
FS_DEVICE uint32_t fs_read_byte(const uint8_t *at)
{
    return __ldg(at);
}
FS_DEVICE int32_t fs_read_i8(const int8_t *at)
{
    return __ldg((const signed char *)at);
}
/* Four bytes anywhere, out of the two aligned words that hold them: up to 3 bytes before and 7 behind must be there. */
FS_DEVICE uint32_t fs_read_unaligned(const uint8_t *at)
{
    const uint32_t *word = (const uint32_t *)((uintptr_t)at & ~(uintptr_t)3);
    return __funnelshift_r(__ldg(word), __ldg(word + 1), ((uint32_t)(uintptr_t)at & 3) * 8);
}

#else

#include <math.h>
#include <string.h>

/* In which order the threads of a phase take their turn. A kernel whose bits depend on it has a race. */
typedef enum { FS_GRID_FORWARD, FS_GRID_BACKWARD, FS_GRID_MIXED } fs_grid_order;

/* Where the grid is that this CPU thread runs. */
typedef struct {
    uint32_t block;
    fs_grid_order order;
    uint8_t *shared;
} fs_grid_state;
extern _Thread_local fs_grid_state fs_grid;

/* Runs a kernel over a list, a block after the other; shared_bytes of block memory, which each block finds full of 0xcc. The
 * order mixes blocks too. False: no memory. Thread: any. */
typedef void fs_grid_kernel(const void *list, uint32_t count);
_Bool fs_grid_run(fs_grid_kernel *kernel, uint32_t num_blocks, uint32_t shared_bytes, fs_grid_order order,
                  const void *list, uint32_t count);

static inline uint32_t fs_grid_at(uint32_t i, uint32_t n, fs_grid_order order)
{
    if (order == FS_GRID_BACKWARD) return n - 1 - i;
    return order == FS_GRID_MIXED && (n & (n - 1)) == 0 ? (i * 77 + 13) & (n - 1) : i;
}
static inline uint32_t fs_grid_thread(uint32_t i)
{
    return fs_grid_at(i, FS_BLOCK_DIM, fs_grid.order);
}

#define FS_KERNEL(name, type)                                                                                \
    static void name##_body(const type *list, uint32_t count);                                               \
    static void name(const void *list, uint32_t count)                                                       \
    {                                                                                                        \
        name##_body((const type *)list, count);                                                              \
    }                                                                                                        \
    static void name##_body(const type *list, uint32_t count)
#define FS_DEVICE       static inline __attribute__((always_inline))
#define FS_BLOCK        fs_grid.block
#define FS_SHARED       /* a block is one call: its own memory is the call's */
#define FS_SHARED_BYTES fs_grid.shared
#define FS_EACH_THREAD(t)                                                                                    \
    for (uint32_t t##_at = 0, t = fs_grid_thread(0); t##_at < FS_BLOCK_DIM; t = fs_grid_thread(++t##_at))
#define FS_EACH_THREAD_ALONE(t) FS_EACH_THREAD(t)
#define FS_REGISTER(type, name) type name[FS_BLOCK_DIM]
#define FS_MINE(name, t)        name[t]
#define FS_SHUFFLE_XOR(to, from, mask)                                                                       \
    do {                                                                                                     \
        uint32_t fs_said[FS_BLOCK_DIM];                                                                      \
        memcpy(fs_said, from, sizeof(fs_said));                                                              \
        for (uint32_t fs_t = 0; fs_t < FS_BLOCK_DIM; fs_t++) memcpy(&to[fs_t], &fs_said[fs_t ^ (mask)], 4);  \
    } while (0)
#define FS_UNROLL(n)

/* As __byte_perm: a nibble of the selector picks one of eight bytes, or with its bit 3 that byte's sign, eight times over. */
static inline uint32_t fs_byte_permute(uint32_t low, uint32_t high, uint32_t selector)
{
    uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t out = 0;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t s = selector >> (4 * i) & 15, byte = (uint32_t)(bytes >> (8 * (s & 7))) & 255;
        if (s & 8) byte = byte >> 7 ? 255 : 0;
        out |= byte << (8 * i);
    }
    return out;
}
static inline void fs_atomic_add(int32_t *at, int32_t v)
{
    *at += v;
}
static inline void fs_atomic_max(uint32_t *at, uint32_t v)
{
    if (v > *at) *at = v;
}
static inline uint32_t fs_bits_of(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return bits;
}
static inline float fs_float_of(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, 4);
    return v;
}
static inline uint32_t fs_load_word(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, 4);
    return v;
}
static inline void fs_store_word(uint8_t *at, uint32_t v)
{
    memcpy(at, &v, 4);
}
static inline uint32_t fs_read_word(const uint8_t *at)
{
    return fs_load_word(at);
}
static inline uint32_t fs_read_unaligned(const uint8_t *at)
{
    return fs_load_word(at);
}
static inline uint32_t fs_read_byte(const uint8_t *at)
{
    return *at;
}
static inline int32_t fs_read_i8(const int8_t *at)
{
    return *at;
}
static inline fs_u32x2 fs_load_pair(const uint8_t *at)
{
    fs_u32x2 pair = {fs_load_word(at), fs_load_word(at + 4)};
    return pair;
}
static inline void fs_store_pair(uint8_t *at, uint32_t x, uint32_t y)
{
    fs_store_word(at, x);
    fs_store_word(at + 4, y);
}

#endif
#endif
