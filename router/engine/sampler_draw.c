/* router/engine/sampler_draw.c: one draw over the most probable tokens.
 * They are taken from a heap one by one, as many as the cuts want: sorting a whole vocabulary for a nucleus of a dozen tokens
 * would cost more than the draw. */
#include <float.h>
#include <math.h>

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

static token_heap make_heap(const float *x, uint32_t *order, uint32_t n)
{
    token_heap heap = {x, order, 0};
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > 0) order[heap.size++] = i; /* a weight of 0 is never drawn */
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

/* Takes the most probable tokens: at most top_k, as few as reach top_p of their sum, none below min_weight. They lie at
 * order[end - 1], order[end - 2], ...; returns how many, at least one. */
static uint32_t take_nucleus(const fs_sampling *s, token_heap *heap, float min_weight)
{
    uint32_t end = heap->size, limit = s->top_k > 0 && s->top_k < end ? s->top_k : end, taken = 0;
    double total = 0, sum = 0;
    if (limit < end) { /* top_p is of what top_k leaves */
        for (uint32_t i = 0; i < limit; i++) total += (double)heap->x[take_first(heap)];
    } else {
        for (uint32_t i = 0; i < end; i++) total += (double)heap->x[heap->order[i]];
    }
    for (bool is_taken = limit < end; taken < limit; taken++) {
        if (s->top_p < 1 && sum >= (double)s->top_p * total) break;
        uint32_t token = is_taken ? heap->order[end - 1 - taken] : take_first(heap);
        float weight = heap->x[token];
        if (taken > 0 && weight < min_weight) break;
        sum += (double)weight;
    }
    return taken;
}

uint32_t fs_sampler_draw(const fs_sampling *s, float *x, uint32_t *order, uint32_t vocab_size, double unit)
{
    to_weights(x, vocab_size, s->temperature);
    bool cuts = (s->top_k > 0 && s->top_k < vocab_size) || s->top_p < 1;
    if (!cuts) return draw_in_order(x, vocab_size, s->min_p, unit);
    token_heap heap = make_heap(x, order, vocab_size);
    uint32_t end = heap.size, taken = take_nucleus(s, &heap, s->min_p), at = 0;
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < taken; i++) total += (double)x[order[end - 1 - i]];
    for (; at + 1 < taken; at++) {
        sum += (double)x[order[end - 1 - at]];
        if (sum > unit * total) break;
    }
    return order[end - 1 - at];
}
