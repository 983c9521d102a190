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

/* The best pattern of each row so far: a code is 5 bits a nonzero, its column and its sign; 0 in the lowest bits is the last one. */
typedef struct {
    fs_lanes cost;
    int32_t code[L];
} best_of;

INLINE void consider(best_of *best, const fs_lanes base, const fs_lanes single, const fs_lanes square,
                     float cross, int32_t code)
{
    for (uint32_t l = 0; l < L; l++) {
        float cost = base[l] + single[l] + square[l] * cross;
        int32_t keep = -(best->cost[l] <= cost); /* all ones or none: a select that becomes a blend */
        best->code[l] = (best->code[l] & keep) | (code & ~keep);
        best->cost[l] = best->cost[l] <= cost ? best->cost[l] : cost;
    }
}

INLINE void extend(const fs_lanes base, const fs_lanes single, const fs_lanes square, float cross,
                   fs_lanes out)
{
    for (uint32_t l = 0; l < L; l++) out[l] = base[l] + single[l] + square[l] * cross;
}

typedef struct {
    const float (*A)[BLOCK];
    fs_lanes single[BLOCK][2]; /* what one nonzero costs alone: + and - */
    fs_lanes square;           /* 2 a a */
} block_costs;

INLINE float sign_of(uint32_t s)
{
    return s ? -1.0f : 1.0f;
}

INLINE void third(const block_costs *b, const fs_lanes base, uint32_t i, float si, uint32_t j, float sj,
                  int32_t code, best_of *best)
{
    for (uint32_t k = j + 1; k < BLOCK; k++) {
        float cross = si * b->A[i][k] + sj * b->A[j][k];
        consider(best, base, b->single[k][0], b->square, cross, code << 5 | (int32_t)(2 * k));
        consider(best, base, b->single[k][1], b->square, -cross, code << 5 | (int32_t)(2 * k + 1));
    }
}

INLINE void second(const block_costs *b, uint32_t n, uint32_t i, uint32_t si, best_of *best)
{
    for (uint32_t j = i + 1; j < BLOCK; j++) {
        for (uint32_t sj = 0; sj < 2; sj++) {
            float cross = sign_of(si) * sign_of(sj) * b->A[i][j];
            int32_t code = (int32_t)((2 * i + si) << 5 | (2 * j + sj));
            if (n == 2) {
                consider(best, b->single[i][si], b->single[j][sj], b->square, cross, code);
            } else {
                fs_lanes base;
                extend(b->single[i][si], b->single[j][sj], b->square, cross, base);
                third(b, base, i, sign_of(si), j, sign_of(sj), code, best);
            }
        }
    }
}

EACH_ISA static void search(const block_costs *b, uint32_t n, best_of *best)
{
    static const fs_lanes zero;
    for (uint32_t i = 0; i + n <= BLOCK; i++) {
        for (uint32_t si = 0; si < 2; si++) {
            if (n == 1)
                consider(best, zero, b->single[i][si], b->square, 0, (int32_t)(2 * i + si));
            else
                second(b, n, i, si, best);
        }
    }
}

void fs_pattern_best(uint32_t n, const float A[BLOCK][BLOCK], const fs_lanes c[BLOCK], const fs_lanes a,
                     fs_lanes q[BLOCK])
{
    block_costs b = {.A = A};
    best_of best = {0};
    for (uint32_t l = 0; l < L; l++) {
        best.cost[l] = FLT_MAX;
        b.square[l] = 2 * a[l] * a[l];
        for (uint32_t i = 0; i < BLOCK; i++) {
            b.single[i][0][l] = a[l] * a[l] * A[i][i] - 2 * a[l] * c[i][l];
            b.single[i][1][l] = a[l] * a[l] * A[i][i] + 2 * a[l] * c[i][l];
        }
    }
    search(&b, n, &best);
    memset(q, 0, sizeof(fs_lanes) * BLOCK);
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t k = 0; k < n; k++) {
            uint32_t one = (uint32_t)best.code[l] >> 5 * k & 31;
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
