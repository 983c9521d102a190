/* tools/compress/plan.c: what a run will take: memory, files, time. */
#include <cblas.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "calibrated.h"

/* What a run was measured to take over its counted multiplications at the speed of a large product: 1.4 on matrices 2048 wide, 2.5 on the
 * demo model's. */
static const double time_factor = 1.6;

const char *fs_format_name(const fs_calibrated_options *o)
{
    return o->bits > 0 ? "mixed" : fs_rate_name(o->rate);
}

fs_quantise_rule fs_rule_for(const fs_calibrated_options *o, fs_rate rate)
{
    fs_quantise_rule rule = {.n = rate.n, .choose = FS_CHOOSE_PATTERN, .threshold = 0.5, .damping = 0.1};
    if (o->method == FS_METHOD_FORESIGHT) {
        static const double scale[] = {
            4.0, 2.2, 2.1, 1.9}; /* by n; chosen by the loss of the demo model (docs/compression.md) */
        rule.scale = scale[rate.n];
        rule.carry = 1;
        rule.rounds = 3;
    } else {
        rule.choose = o->method == FS_METHOD_GPTQ ? FS_CHOOSE_SALIENCY : FS_CHOOSE_NEAREST;
        rule.scale = rate.n ? 1 : 3.6;
    }
    if (o->scale > 0) rule.scale = o->scale;
    rule.zeros = o->zeros;
    return rule;
}

static uint64_t machine_bytes(void)
{
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 4 * 3;
}

/* Multiply-adds of one expert with that many rows: moments, their factors, carry, sweep and rounds, and running it on both planes. */
static double expert_work(const fs_model_config *c, double rows)
{
    const double d = c->hidden_size, f = c->moe_intermediate_size;
    return rows * 1.5 * (d * d + f * f) + (d * d * d + f * f * f) / 3 + 4.75 * (2 * f * d * d + d * f * f) +
           rows * 4.5 * d * f;
}

/* Of a layer's attention, both planes. */
static double attention_work(const fs_model_config *c, double rows)
{
    return rows * 2 * c->hidden_size * 2.0 * (c->num_heads + c->num_kv_heads) * c->head_dim;
}

/* Multiply-adds a second of a product of 384 x 384, one thread: the best of some, as on a machine with nothing else to do. */
static double product_speed(void)
{
    enum { N = 384, TIMES = 12 };
    float *a = calloc(3 * N * N, sizeof(*a));
    double best = 1;
    for (int i = 0; a && i < TIMES; i++) {
        const int64_t begun = fs_clock_now(fs_clock_system());
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1, a, N, a + N * N, N, 0,
                    a + 2 * N * N, N);
        best = fmin(best, (double)(fs_clock_now(fs_clock_system()) - begun) / 1e9);
    }
    free(a);
    return (double)N * N * N / fmax(best, 1e-6);
}

static fs_status count_bytes(const fs_input *in, const fs_calibrated_options *o, fs_plan *plan,
                             fs_detail *detail)
{
    const fs_model_config *c = &in->config;
    const fs_rate rate = o->rate;
    uint64_t an_expert = 0, dense = 0, all = 0;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        uint32_t rows, cols;
        fs_expert_part_shape(c, (fs_expert_part)i, &rows, &cols);
        if (!fs_rate_fits(rate, rows, cols))
            return fs_fail(
                detail, FS_UNSUPPORTED,
                "%s: experts have matrices of %u x %u: %s needs columns in multiples of 16, at most %u",
                in->dir, rows, cols, fs_rate_name(rate), FS_SUB1_MAX_DIM);
        an_expert += fs_rate_bytes(rate, rows, cols, 0.115) + FS_SUB1_ALIGN / 2; /* padding, on average */
        plan->num_weights += (uint64_t)rows * cols;
    }
    const uint64_t experts = (uint64_t)c->num_moe_layers * c->num_experts;
    plan->expert_bytes = an_expert * experts;
    plan->num_weights *= experts;
    if (o->bits > 0) plan->expert_bytes = (uint64_t)(o->bits / 8 * (double)plan->num_weights);
    for (uint32_t i = 0; i < fs_tensors_count(in->tensors); i++) {
        const fs_tensor *t = fs_tensors_at(in->tensors, i);
        all += t->size;
        if (strstr(t->name, ".experts.")) dense += t->size;
    }
    plan->backbone_bytes = all - dense;
    return FS_OK;
}

fs_status fs_plan_make(const fs_input *in, const fs_windows *windows, const fs_calibrated_options *o,
                       fs_plan *out, fs_detail *detail)
{
    const fs_model_config *c = &in->config;
    fs_plan plan = {.job_bytes = fs_expert_job_bytes(c), .disk_bytes = fs_stream_disk_bytes(c, windows)};
    fs_status st = count_bytes(in, o, &plan, detail);
    if (st != FS_OK) return st;
    const uint64_t base = fs_stream_memory_bytes(c, windows) + (64u << 20),
                   limit = o->memory_bytes ? o->memory_bytes : machine_bytes();
    plan.workers = o->threads;
    while (plan.workers > 1 && base + plan.workers * plan.job_bytes > limit) plan.workers--;
    plan.memory_bytes = base + plan.workers * plan.job_bytes;
    if (plan.memory_bytes > limit)
        return fs_fail(detail, FS_INVALID,
                       "--memory: one expert at a time takes %" PRIu64
                       " MiB, with %u x %u calibration tokens; allowed are %" PRIu64 " MiB",
                       plan.memory_bytes >> 20, windows->num_windows, windows->length, limit >> 20);
    const double rows = (double)fs_windows_rows(windows) * c->top_k / c->num_experts;
    const double experts = (double)c->num_moe_layers * c->num_experts;
    const double work = experts * expert_work(c, rows) * (o->bits > 0 ? 2.2 : 1) +
                        c->num_layers * attention_work(c, (double)fs_windows_rows(windows));
    plan.seconds = time_factor * work / product_speed() / plan.workers;
    *out = plan;
    return FS_OK;
}

void fs_plan_print(const fs_plan *p, const fs_calibrated_options *o, const fs_windows *w)
{
    printf(
        "would write about\n  backbone %12.3f MB, as it is\n  experts  %12.3f MB, %s: %.4f bits a weight\n",
        (double)p->backbone_bytes / 1e6, (double)p->expert_bytes / 1e6, fs_format_name(o),
        8.0 * (double)p->expert_bytes / (double)p->num_weights);
    printf("from %u windows of %u tokens, %u more held back to measure with\n", w->num_calibration, w->length,
           w->num_windows - w->num_calibration);
    printf("with %u experts at a time, %.0f MB of memory, %.0f MB of work files beside the output, about "
           "%.0f s\n",
           p->workers, (double)p->memory_bytes / 1e6, (double)p->disk_bytes / 1e6, p->seconds);
}
