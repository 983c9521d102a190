/* router/engine/sampler_draw.c: one draw over the most probable tokens.
 * Of a whole vocabulary only those that can be among them go into a heap, and are taken from it one by one, as many as the cuts
 * want: sorting everything for a nucleus of a dozen tokens would cost more than the draw. */
#include <string.h>

#include "compute/kernels.h"
#include "engine/sampler_int.h"

/* Tokens by falling x, ties to the lower id. order[0..size) is the heap; what was taken lies behind it, the first last. */
typedef struct {
    const float *x;
    uint32_t *order;
    uint32_t size;
} token_heap;

static bool comes_first(const float *x, uint32_t a, uint32_t b)
{
    return x[a] > x[b] || (x[a] == x[b] && a < b);
}

static void sift_down(token_heap *heap, uint32_t at)
{
    uint32_t *order = heap->order, token = order[at];
    for (uint64_t child; (child = 2 * (uint64_t)at + 1) < heap->size; at = (uint32_t)child) {
        if (child + 1 < heap->size && comes_first(heap->x, order[child + 1], order[child])) child++;
        if (!comes_first(heap->x, order[child], token)) break;
        order[at] = order[child];
    }
    order[at] = token;
}

static token_heap make_heap(const float *x, float floor, uint32_t *order, uint32_t n)
{
    token_heap heap = {x, order, 0};
    for (uint32_t i = 0; i < n; i++)
        if (x[i] >= floor && x[i] > 0) order[heap.size++] = i; /* a weight of 0 is never drawn */
    for (uint32_t i = heap.size / 2; i > 0; i--) sift_down(&heap, i - 1);
    return heap;
}

static uint32_t take_first(token_heap *heap)
{
    uint32_t token = heap->order[0];
    heap->order[0] = heap->order[--heap->size];
    heap->order[heap->size] = token;
    if (heap->size > 0) sift_down(heap, 0);
    return token;
}

/* x becomes exp((x - max) / temperature): the most probable token's weight is exactly 1. */
static void to_weights(float *x, uint32_t n, float temperature)
{
    float max = x[fs_sampler_argmax(x, n)];
    for (uint32_t i = 0; i < n; i++) x[i] = (x[i] - max) / temperature;
    fs_kernels_best()->exp_f32(x, x, n);
}

static uint32_t draw_in_order(const float *weight, uint32_t n, float min_weight, double unit)
{
    double total = 0, sum = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < n; i++)
        if (weight[i] >= min_weight) total += (double)weight[i];
    for (uint32_t i = 0; i < n; i++) {
        if (weight[i] < min_weight || weight[i] == 0) continue;
        last = i;
        sum += (double)weight[i];
        if (sum > unit * total) break;
    }
    return last;
}

/* A power of two that no weight which top_k and top_p keep is below: weights are counted by their exponents (1 has 127), and
 * the largest exponents that hold enough are kept whole. */
static float lowest_weight(const fs_sampling *s, const float *weight, uint32_t n, double total)
{
    uint32_t count[128] = {0}, num = 0, bits, e = 127;
    double mass[128] = {0}, sum = 0, wanted = s->top_p < 1 ? (double)s->top_p * total : total;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(&bits, &weight[i], sizeof bits);
        count[bits >> 23]++;
        mass[bits >> 23] += (double)weight[i];
    }
    for (; e > 0; e--) {
        num += count[e];
        sum += mass[e];
        bool is_enough = s->top_k > 0 ? num >= s->top_k
                                      : sum >= wanted * (1 + 1e-9); /* added in another order */
        if (is_enough) break;
    }
    bits = e << 23;
    float floor;
    memcpy(&floor, &bits, sizeof floor);
    return floor;
}

/* Takes the most probable tokens: at most top_k, as few as reach top_p of their sum, none below min_p. They lie at
 * order[end - 1], order[end - 2], ... from the heap's end on; returns how many, at least one. total: of all weights. */
static uint32_t take_nucleus(const fs_sampling *s, token_heap *heap, double total)
{
    uint32_t end = heap->size, limit = end, taken = 0;
    double sum = 0;
    if (s->top_k > 0) { /* top_p is of what top_k leaves */
        limit = s->top_k < end ? s->top_k : end;
        total = 0;
        for (uint32_t i = 0; i < limit; i++) total += (double)heap->x[take_first(heap)];
    }
    for (; taken < limit; taken++) {
        if (s->top_p < 1 && sum >= (double)s->top_p * total) break;
        float weight = heap->x[s->top_k > 0 ? heap->order[end - 1 - taken] : take_first(heap)];
        if (taken > 0 && weight < s->min_p) break;
        sum += (double)weight;
    }
    return taken;
}

static double sum_of(const float *weight, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)weight[i];
    return sum;
}

static uint32_t draw_from_nucleus(const fs_sampling *s, const float *weight, uint32_t *order, uint32_t n,
                                  double unit)
{
    double all = sum_of(weight, n), total = 0, sum = 0;
    token_heap heap = make_heap(weight, lowest_weight(s, weight, n, all), order, n);
    uint32_t end = heap.size, taken = take_nucleus(s, &heap, all), at = 0;
    for (uint32_t i = 0; i < taken; i++) total += (double)weight[order[end - 1 - i]];
    for (; at + 1 < taken; at++) {
        sum += (double)weight[order[end - 1 - at]];
        if (sum > unit * total) break;
    }
    return order[end - 1 - at];
}

uint32_t fs_sampler_draw(const fs_sampling *s, float *x, uint32_t *order, uint32_t vocab_size, double unit)
{
    to_weights(x, vocab_size, s->temperature);
    bool cuts = (s->top_k > 0 && s->top_k < vocab_size) || s->top_p < 1;
    if (!cuts) return draw_in_order(x, vocab_size, s->min_p, unit);
    return draw_from_nucleus(s, x, order, vocab_size, unit);
}
