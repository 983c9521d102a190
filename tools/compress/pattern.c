/* tools/compress/pattern.c: the best ternary values of a block, by looking at all of them. Loops over lanes are what the compiler makes
 * vectors of; without fused or reordered sums every instruction set gives the same bits. */
#include "pattern.h"

#include <float.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) &&      \
    !defined(__SANITIZE_ADDRESS__)
#define EACH_ISA __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EACH_ISA
#endif
#define INLINE static inline __attribute__((always_inline))

enum { BLOCK = FS_QUANTISE_BLOCK, L = FS_PATTERN_LANES };

/* A row a lane. Vectors, not loops: what is best so far must stay in registers. */
typedef float lanes __attribute__((vector_size(sizeof(float) * L)));
typedef int32_t lane_codes __attribute__((vector_size(sizeof(int32_t) * L)));

/* The best pattern of each row so far: a code is 5 bits a nonzero, its column and its sign; 0 in the lowest bits is the last one.
 * Patterns come in rising order of their codes. */
typedef struct {
    lanes cost;
    lane_codes code;
} best_of;

INLINE void consider(best_of *best, const lanes *cost, const lane_codes *code)
{
    lane_codes keep = best->cost <= *cost; /* all ones or none */
    best->code = (best->code & keep) | (*code & ~keep);
    best->cost = (lanes)(((lane_codes)best->cost & keep) | ((lane_codes)*cost & ~keep));
}

/* Of equals the lower code. */
INLINE void merge(best_of *best, const best_of *other)
{
    lane_codes keep = (best->cost < other->cost) | ((best->cost == other->cost) & (best->code < other->code));
    best->code = (best->code & keep) | (other->code & ~keep);
    best->cost = (lanes)(((lane_codes)best->cost & keep) | ((lane_codes)other->cost & ~keep));
}

typedef struct {
    const float (*A)[BLOCK];
    lanes single[BLOCK][2]; /* what one nonzero costs alone: + and - */
    lanes square;           /* 2 a a */
} block_costs;

INLINE void find_one(const block_costs *b, best_of *best)
{
    for (int32_t i = 0; i < BLOCK; i++)
        for (int32_t si = 0; si < 2; si++) {
            lane_codes code = (lane_codes){0} + (2 * i + si);
            consider(best, &b->single[i][si], &code);
        }
}

/* The four signs of a pair have a best each, so that no comparison waits for the one before it. */
INLINE void find_two(const block_costs *b, best_of best[4])
{
    for (int32_t i = 0; i < BLOCK; i++)
        for (int32_t j = i + 1; j < BLOCK; j++) {
            const lanes cross = b->square * b->A[i][j];
            for (int32_t s = 0; s < 4; s++) {
                const int32_t si = s >> 1, sj = s & 1;
                const lanes sum = b->single[i][si] + b->single[j][sj];
                const lanes cost = si == sj ? sum + cross : sum - cross;
                const lane_codes code = (lane_codes){0} + ((2 * i + si) << 5 | (2 * j + sj));
                consider(&best[s], &cost, &code);
            }
        }
}

/* The third nonzero of a pair whose cost is base. */
INLINE void find_third(const block_costs *b, const lanes *base, int32_t i, float si, int32_t j, float sj,
                       int32_t code, best_of best[2])
{
    for (int32_t k = j + 1; k < BLOCK; k++) {
        const lanes cross = b->square * (si * b->A[i][k] + sj * b->A[j][k]);
        const lanes plus = *base + b->single[k][0] + cross, minus = *base + b->single[k][1] - cross;
        const lane_codes first = (lane_codes){0} + (code << 5 | 2 * k), second = first + 1;
        consider(&best[0], &plus, &first);
        consider(&best[1], &minus, &second);
    }
}

INLINE void find_three(const block_costs *b, best_of best[4])
{
    for (int32_t i = 0; i < BLOCK; i++)
        for (int32_t j = i + 1; j < BLOCK; j++)
            for (int32_t s = 0; s < 4; s++) {
                const float si = s & 2 ? -1.0f : 1.0f, sj = s & 1 ? -1.0f : 1.0f;
                const lanes base = b->single[i][s >> 1] + b->single[j][s & 1] +
                                   b->square * (si * sj * b->A[i][j]);
                find_third(b, &base, i, si, j, sj, (2 * i + (s >> 1)) << 5 | (2 * j + (s & 1)),
                           best + (s & 2));
            }
}

EACH_ISA static void search(const block_costs *b, uint32_t n, int32_t code[L])
{
    static const int32_t first[FS_QUANTISE_MAX_N + 1] = {0, 0, 2, 2 << 5 | 4}; /* the first columns, all + */
    best_of best[4];
    for (int s = 0; s < 4; s++) best[s] = (best_of){(lanes){0} + FLT_MAX, (lane_codes){0} + first[n]};
    if (n == 1)
        find_one(b, &best[0]);
    else if (n == 2)
        find_two(b, best);
    else
        find_three(b, best);
    for (int s = 1; s < 4; s++) merge(&best[0], &best[s]);
    memcpy(code, &best[0].code, sizeof(best[0].code));
}

void fs_pattern_best(uint32_t n, const float A[BLOCK][BLOCK], const fs_lanes c[BLOCK], const fs_lanes a,
                     fs_lanes q[BLOCK])
{
    block_costs b = {.A = A};
    int32_t code[L];
    for (uint32_t l = 0; l < L; l++) {
        b.square[l] = 2 * a[l] * a[l];
        for (uint32_t i = 0; i < BLOCK; i++) {
            b.single[i][0][l] = a[l] * a[l] * A[i][i] - 2 * a[l] * c[i][l];
            b.single[i][1][l] = a[l] * a[l] * A[i][i] + 2 * a[l] * c[i][l];
        }
    }
    search(&b, n, code);
    memset(q, 0, sizeof(fs_lanes) * BLOCK);
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t k = 0; k < n; k++) {
            uint32_t one = (uint32_t)code[l] >> 5 * k & 31;
            q[one / 2][l] = one % 2 ? -a[l] : a[l];
        }
}

EACH_ISA void fs_pattern_pass(const float A[BLOCK][BLOCK], const fs_lanes c[BLOCK], const fs_lanes a,
                              const fs_lanes cost, fs_lanes q[BLOCK])
{
    for (uint32_t j = 0; j < BLOCK; j++) {
        fs_lanes pull;
        for (uint32_t l = 0; l < L; l++) pull[l] = c[j][l] + A[j][j] * q[j][l];
        for (uint32_t k = 0; k < BLOCK; k++)
            for (uint32_t l = 0; l < L; l++) pull[l] = pull[l] - A[j][k] * q[k][l];
        for (uint32_t l = 0; l < L; l++) {
            float size = pull[l] < 0 ? -pull[l] : pull[l];
            float value = pull[l] < 0 ? -a[l] : a[l];
            float gain = 2 * a[l] * size - a[l] * a[l] * A[j][j] - cost[l];
            q[j][l] = gain > 0 ? value : 0;
        }
    }
}
