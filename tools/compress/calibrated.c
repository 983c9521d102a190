/* tools/compress/calibrated.c: the run: layer by layer, each expert journalled, then the rest of the directory. */
#include "calibrated.h"

#include <cblas.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "expert_store.h"

enum {
    ARITHMETIC = 2
}; /* another number where the same options give other bytes: --resume must not mix them */

typedef struct {
    const fs_input *in;
    const fs_calibrated_options *options;
    fs_windows windows;
    fs_plan plan;
    fs_output out;
    fs_journal journal;
    fs_stream stream;
    fs_pool *pool;
    fs_expert_job **job; /* [plan.workers], those below num_free are free */
    uint32_t num_free;
    pthread_mutex_t lock; /* of num_free, the journal and the progress */
    fs_progress progress;
    fs_quantise_rule rule[FS_BUDGET_RATES + 1]; /* by n */
    /* the layer in work */
    fs_layer_rows rows;
    fs_budget_matrix *probe; /* [num_experts][FS_NUM_EXPERT_PARTS]; with --bits, as choice */
    uint8_t *choice;         /* [num_experts][FS_NUM_EXPERT_PARTS] */
    fs_status *status;       /* [num_experts] */
    fs_detail *detail;
} run;

/* ---- one expert ---- */

static fs_expert_job *take_job(run *r)
{
    pthread_mutex_lock(&r->lock);
    FS_ASSERT(r->num_free > 0); /* there are as many as the pool has threads */
    fs_expert_job *job = r->job[--r->num_free];
    pthread_mutex_unlock(&r->lock);
    return job;
}

static void give_job(run *r, fs_expert_job *job)
{
    pthread_mutex_lock(&r->lock);
    r->job[r->num_free++] = job;
    fs_progress_step(&r->progress, r->rows.moe, r->in->config.num_moe_layers);
    pthread_mutex_unlock(&r->lock);
}

static fs_journal_expert *known_expert(run *r, uint32_t moe, uint32_t expert)
{
    return &r->journal.expert[(size_t)moe * r->in->config.num_experts + expert];
}

static void choose_rates(const run *r, uint32_t expert, fs_quantise_rule rule[FS_NUM_EXPERT_PARTS],
                         fs_rate rate[FS_NUM_EXPERT_PARTS])
{
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        rate[i] = r->options->rate;
        if (r->choice) rate[i].n = r->choice[expert * FS_NUM_EXPERT_PARTS + i] + 1u;
        rule[i] = r->rule[rate[i].n];
    }
}

static fs_status make_blobs(run *r, fs_expert_job *job, uint32_t expert, fs_expert_blobs *blobs,
                            fs_detail *detail)
{
    const fs_journal_expert *known = known_expert(r, r->rows.moe, expert);
    if (known->done) {
        fs_status st = fs_expert_store_load(r->out.staging, r->rows.layer, expert,
                                            known_expert(r, r->rows.moe, 0), blobs, detail);
        if (st != FS_NOT_FOUND && st != FS_CORRUPT)
            return st; /* what a power cut took is made again, the same */
    }
    fs_expert_result result = {0};
    fs_quantise_rule rule[FS_NUM_EXPERT_PARTS];
    fs_rate rate[FS_NUM_EXPERT_PARTS];
    choose_rates(r, expert, rule, rate);
    fs_status st = fs_expert_job_quantise(job, &r->rows, expert, rule, rate, blobs, &result, detail);
    if (st == FS_OK) st = fs_expert_store_save(r->out.staging, r->rows.layer, expert, blobs, detail);
    if (st != FS_OK) return st;
    const uint64_t checksum = fs_blobs_checksum(blobs);
    pthread_mutex_lock(&r->lock);
    st = fs_journal_add_expert(&r->journal, r->rows.moe, expert, checksum, &result, detail);
    pthread_mutex_unlock(&r->lock);
    return st;
}

static void do_expert(void *arg, uint32_t expert)
{
    run *r = arg;
    fs_expert_blobs blobs = {0};
    fs_detail *detail = &r->detail[expert];
    fs_expert_job *job = take_job(r);
    fs_status st = fs_compress_stopped() ? fs_fail(detail, FS_CANCELLED, "stopped") : FS_OK;
    if (st == FS_OK) st = make_blobs(r, job, expert, &blobs, detail);
    if (st == FS_OK) st = fs_expert_job_run(job, &r->rows, expert, &blobs, detail);
    fs_blobs_free(&blobs);
    r->status[expert] = st;
    give_job(r, job);
}

/* ---- a layer's budget ---- */

/* The first failure that is not only the stop that it, or the user, caused. */
static fs_status first_failure(const run *r, fs_detail *detail)
{
    fs_status st = FS_OK;
    for (uint32_t e = 0; e < r->in->config.num_experts; e++) {
        if (r->status[e] == FS_OK || (st != FS_OK && (st != FS_CANCELLED || r->status[e] == FS_CANCELLED)))
            continue;
        st = r->status[e];
        *detail = r->detail[e];
    }
    return st;
}

static void probe_expert(void *arg, uint32_t expert)
{
    run *r = arg;
    fs_detail *detail = &r->detail[expert];
    fs_budget_matrix *m = r->probe + (size_t)expert * FS_NUM_EXPERT_PARTS;
    fs_expert_job *job = take_job(r);
    fs_status st = fs_compress_stopped() ? fs_fail(detail, FS_CANCELLED, "stopped") : FS_OK;
    if (st == FS_OK) st = fs_expert_job_probe(job, &r->rows, expert, r->rule + 1, m, detail);
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        uint32_t rows, cols;
        fs_expert_part_shape(&r->in->config, (fs_expert_part)i, &rows, &cols);
        m[i].weight = (double)(r->rows.held[expert] - r->rows.start[expert]);
        for (uint32_t n = 0; n < FS_BUDGET_RATES; n++) {
            uint64_t bytes = fs_rate_bytes((fs_rate){FS_SUB1_BLOCKED, n + 1, FS_QUANTISE_BLOCK}, rows, cols,
                                           0);
            m[i].bytes[n] = (bytes + FS_SUB1_ALIGN - 1) / FS_SUB1_ALIGN * FS_SUB1_ALIGN;
        }
    }
    r->status[expert] = st;
    give_job(r, job);
}

/* Of the layer's file: its header, and the matrices as chosen with the padding of each expert. */
static uint64_t layer_bytes(const run *r)
{
    const uint32_t experts = r->in->config.num_experts;
    uint64_t header = (uint64_t)experts * 3 * 115 + 256, bytes = (header + 4095) / 4096 * 4096;
    for (uint32_t e = 0; e < experts; e++) {
        uint64_t sum = 0;
        for (size_t i = (size_t)e * FS_NUM_EXPERT_PARTS; i < (e + 1u) * FS_NUM_EXPERT_PARTS; i++)
            sum += r->probe[i].bytes[r->choice[i]];
        bytes += (sum + FS_EXPERT_FILE_ALIGN - 1) / FS_EXPERT_FILE_ALIGN * FS_EXPERT_FILE_ALIGN;
    }
    return bytes;
}

/* Padding depends on what is chosen: what it is over the target goes off the budget. */
static fs_status spend_budget(run *r, fs_detail *detail)
{
    const fs_model_config *c = &r->in->config;
    const size_t count = (size_t)c->num_experts * FS_NUM_EXPERT_PARTS;
    const uint64_t target = (uint64_t)(r->options->bits / 8 * (double)r->plan.num_weights /
                                       c->num_moe_layers);
    fs_pool_run(r->pool, probe_expert, r, c->num_experts);
    fs_status st = first_failure(r, detail);
    if (st != FS_OK) return st;
    for (uint64_t budget = target;;) {
        st = fs_budget_spend(r->probe, count, budget, r->choice);
        uint64_t all = st == FS_OK ? layer_bytes(r) : 0;
        if (st == FS_OK && all <= target) return FS_OK;
        if (st != FS_OK || all - target >= budget) break;
        budget -= all - target;
    }
    return fs_fail(detail, FS_INVALID,
                   "--bits: %g bits a weight are too few for layer %u even at blocked:1:16", r->options->bits,
                   r->rows.layer);
}

/* ---- one layer ---- */

static fs_status do_layer(run *r, uint32_t moe, fs_detail *detail)
{
    const fs_model_config *c = &r->in->config;
    const uint32_t layer = c->moe_layer[moe];
    uint64_t sum[FS_NUM_PLANES];
    fs_status st = fs_stream_attend(&r->stream, layer, detail);
    if (st == FS_OK) st = fs_layer_rows_find(&r->stream, layer, moe, &r->rows, detail);
    if (st == FS_OK && r->choice) st = spend_budget(r, detail);
    if (st == FS_OK) {
        fs_pool_run(r->pool, do_expert, r, c->num_experts);
        st = first_failure(r, detail);
    }
    fs_layer_rows_free(&r->rows);
    if (st == FS_OK) st = fs_expert_store_merge(c, layer, known_expert(r, moe, 0), &r->out, detail);
    if (st == FS_OK) st = fs_stream_combine(&r->stream, moe, sum, detail);
    if (st == FS_OK) st = fs_journal_add_layer(&r->journal, moe, sum, detail);
    if (st != FS_OK) return st;
    fs_stream_advance(&r->stream);
    fs_expert_store_remove(c, r->out.staging, layer);
    fs_progress_layer(&r->progress, moe, c->num_moe_layers);
    return FS_OK;
}

/* ---- beginning and end ---- */

/* Of everything that decides the output's bytes, but for the bytes of the weights. */
static fs_status fingerprint(const run *r, uint64_t *out, fs_detail *detail)
{
    struct {
        uint64_t model, text, seed, sizes;
        uint32_t format, n, method, windows;
        double scale, bits, zeros;
        uint64_t arithmetic;
    } all = {.seed = r->options->text.seed,
             .format = r->options->rate.format,
             .n = r->options->rate.n,
             .method = r->options->method,
             .windows = r->windows.num_calibration,
             .scale = r->options->scale,
             .bits = r->options->bits,
             .zeros = r->options->zeros,
             .arithmetic = ARITHMETIC};
    fs_status st = fs_model_fingerprint(r->in->dir, r->in->tensors, &all.model, detail);
    if (st != FS_OK) return st;
    all.text = XXH3_64bits(r->windows.token, fs_windows_rows(&r->windows) * sizeof(*r->windows.token));
    for (uint32_t i = 0; i < fs_tensors_num_files(r->in->tensors); i++)
        all.sizes = all.sizes * 31 + fs_tensors_file_size(r->in->tensors, i);
    *out = XXH3_64bits(&all, sizeof(all));
    return FS_OK;
}

static fs_status check_family(const fs_input *in, fs_detail *detail)
{
    if (in->config.num_moe_layers == in->config.num_layers) return FS_OK;
    return fs_fail(detail, FS_UNSUPPORTED,
                   "%s: %u of %u layers have no experts: calibration does not go through such layers",
                   in->dir, in->config.num_layers - in->config.num_moe_layers, in->config.num_layers);
}

/* Where an earlier run saved the stream or, if that is lost, from the embedding: finished experts are not quantised again. */
static fs_status open_stream(run *r, fs_detail *detail)
{
    fs_status st = fs_stream_open(r->in, &r->windows, r->out.staging, r->pool, r->journal.num_layers_done,
                                  r->journal.stream, &r->stream, detail);
    if ((st != FS_CORRUPT && st != FS_NOT_FOUND) || r->journal.num_layers_done == 0) return st;
    fprintf(stderr, "foresight-compress: %s: it is made again, with the experts that are finished\n",
            detail->text);
    fs_stream_close(&r->stream, false);
    fs_journal_rewind(&r->journal);
    return fs_stream_open(r->in, &r->windows, r->out.staging, r->pool, 0, NULL, &r->stream, detail);
}

static fs_status set_up(run *r, const char *out_path, fs_detail *detail)
{
    const uint32_t experts = r->in->config.num_experts;
    uint64_t print = 0;
    fs_status st = fingerprint(r, &print, detail);
    if (st == FS_OK) st = fs_output_begin(out_path, r->options->resume, &r->out, detail);
    if (st == FS_OK) st = fs_journal_open(r->out.staging, &r->in->config, print, &r->journal, detail);
    if (st != FS_OK) return st;
    fs_output_clean(&r->out, r->journal.begun_now);
    st = fs_pool_create(r->plan.workers, &r->pool);
    if (st != FS_OK) return fs_fail(detail, st, "--threads: %u threads cannot be started", r->plan.workers);
    r->status = calloc(experts, sizeof(*r->status));
    r->detail = calloc(experts, sizeof(*r->detail));
    r->job = calloc(r->plan.workers, sizeof(*r->job));
    st = r->status && r->detail && r->job ? FS_OK : FS_NO_MEMORY;
    if (r->options->bits > 0) {
        r->probe = calloc((size_t)experts * FS_NUM_EXPERT_PARTS, sizeof(*r->probe));
        r->choice = calloc(experts, FS_NUM_EXPERT_PARTS);
        if (!r->probe || !r->choice) st = FS_NO_MEMORY;
    }
    while (st == FS_OK && r->num_free < r->plan.workers) {
        st = fs_expert_job_create(&r->in->config, &r->job[r->num_free]);
        if (st == FS_OK) r->num_free++;
    }
    if (st != FS_OK) return fs_fail(detail, st, "no memory for %u experts at a time", r->plan.workers);
    for (uint32_t n = 0; n <= FS_BUDGET_RATES; n++) r->rule[n] = fs_rule_for(r->options, (fs_rate){.n = n});
    return open_stream(r, detail);
}

static uint64_t num_finished(const run *r)
{
    uint64_t n = 0;
    for (size_t i = 0; i < (size_t)r->journal.num_moe_layers * r->journal.num_experts; i++)
        n += r->journal.expert[i].done;
    return n;
}

static fs_status do_layers(run *r, fs_detail *detail)
{
    const fs_model_config *c = &r->in->config;
    const uint64_t steps = (uint64_t)c->num_experts * (r->choice ? 2 : 1); /* a probe counts as one */
    fs_progress_begin(&r->progress, c->num_moe_layers * steps, r->journal.num_layers_done * steps);
    fs_status st = FS_OK;
    for (uint32_t moe = r->journal.num_layers_done; st == FS_OK && moe < c->num_moe_layers; moe++)
        st = do_layer(r, moe, detail);
    fs_progress_end(&r->progress);
    return st;
}

/* Everything of the directory but the experts' files, which are there. */
static fs_status finish_directory(run *r, fs_summary *summary, fs_detail *detail)
{
    const fs_model_config *c = &r->in->config;
    fs_status st = fs_pack_backbone(r->in, &r->out, summary, detail);
    for (uint32_t moe = 0; st == FS_OK && moe < c->num_moe_layers; moe++) {
        char name[64];
        struct stat info;
        st = fs_expert_store_note(c, c->moe_layer[moe], known_expert(r, moe, 0), &r->out, detail);
        snprintf(name, sizeof(name), "experts-layer-%05u.safetensors", c->moe_layer[moe]);
        const char *path = fs_output_file(&r->out, name);
        if (path && stat(path, &info) == 0) summary->expert_bytes += (uint64_t)info.st_size;
        for (uint32_t e = 0; e < c->num_experts; e++)
            for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++)
                summary->part_bytes[i] += known_expert(r, moe, e)->result.part[i].bytes;
    }
    summary->num_experts = c->num_moe_layers * c->num_experts;
    summary->num_weights = r->plan.num_weights;
    return st == FS_OK ? fs_pack_json(r->in, r->options->rate.format,
                                      r->options->bits > 0 ? 0 : r->options->rate.n, &r->out, summary, detail)
                       : st;
}

static fs_status check_expert(void *arg, uint32_t worker, uint32_t layer, uint32_t expert,
                              const fs_expert_range *range, const fs_expert *opened, fs_detail *detail)
{
    run *r = arg;
    fs_expert_blobs blobs;
    uint32_t moe = 0;
    while (r->in->config.moe_layer[moe] != layer) moe++;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        blobs.data[i] = (uint8_t *)range->part[i]->data; /* only read */
        blobs.bytes[i] = range->part[i]->size;
    }
    if (fs_blobs_checksum(&blobs) == known_expert(r, moe, expert)->checksum) return FS_OK;
    return fs_fail(detail, FS_CORRUPT, "%s: is not what was quantised", range->part[0]->name);
}

static void tell(const run *r, const fs_report *report)
{
    const fs_summary *s = report->summary;
    printf("%s\n  backbone %12.3f MB  %u tensors, as they were\n  experts  %12.3f MB  %u in %u layers, %s\n",
           r->out.path, (double)s->backbone_bytes / 1e6, s->num_backbone_tensors,
           (double)s->expert_bytes / 1e6, s->num_experts, r->in->config.num_moe_layers,
           fs_format_name(r->options));
    printf("%.4f bits a weight: %llu weights of experts in %llu bytes of files\n",
           8.0 * (double)s->expert_bytes / (double)s->num_weights, (unsigned long long)s->num_weights,
           (unsigned long long)s->expert_bytes);
    printf("loss on %llu tokens that were held back: %.4f nats, uncompressed %.4f: %+.4f\n",
           (unsigned long long)report->num_loss_tokens, report->loss[FS_PLANE_SERVED],
           report->loss[FS_PLANE_DENSE], report->loss[FS_PLANE_SERVED] - report->loss[FS_PLANE_DENSE]);
    if (report->rare_experts)
        printf("%llu experts had fewer rows than columns and borrowed some of their layer's\n",
               (unsigned long long)report->rare_experts);
    printf("verified: read back, every expert is what was quantised, every other tensor the input's\n");
}

static uint64_t count_rare(const run *r)
{
    uint64_t n = 0;
    for (size_t i = 0; i < (size_t)r->journal.num_moe_layers * r->journal.num_experts; i++)
        n += r->journal.expert[i].result.borrowed > 0;
    return n;
}

static fs_status go(run *r, const char *out_path, fs_detail *detail)
{
    const int64_t begun = fs_clock_now(fs_clock_system());
    fs_summary summary = {0};
    fs_report report = {r->in,       r->options, &r->windows,         &r->plan,
                        &r->journal, &summary,   .out_path = out_path};
    fs_status st = set_up(r, out_path, detail);
    report.resumed = st == FS_OK && num_finished(r) > 0;
    if (st == FS_OK) st = do_layers(r, detail);
    if (st == FS_OK) st = fs_stream_loss(&r->stream, report.loss, &report.num_loss_tokens, detail);
    if (st == FS_OK) st = finish_directory(r, &summary, detail);
    if (st == FS_OK) st = fs_verify_written(r->in, r->out.staging, r->pool, check_expert, r, detail);
    if (st == FS_OK && fs_compress_stopped()) st = fs_fail(detail, FS_CANCELLED, "stopped");
    if (st != FS_OK) return st;
    report.num_weights = summary.num_weights;
    report.rare_experts = count_rare(r);
    report.seconds = (double)(fs_clock_now(fs_clock_system()) - begun) / 1e9;
    if (r->options->report) st = fs_report_write(&report, r->options->report, detail);
    if (st != FS_OK) return st;
    /* The journal goes first: it must not tell of files that are gone. A kill from here on means one more run. */
    st = fs_journal_remove(&r->journal, detail);
    if (st != FS_OK) return st;
    fs_stream_close(&r->stream, false);
    fs_output_remove_work(&r->out); /* a kill may have left some of a finished layer's */
    st = fs_output_commit(&r->out, detail);
    if (st == FS_OK) tell(r, &report);
    return st;
}

static void tear_down(run *r, fs_status st)
{
    /* What was finished is kept: the journal says where to go on. */
    const bool keep = st != FS_OK && r->journal.fd > 0 && num_finished(r) > 0;
    if (keep && r->out.staged)
        fprintf(stderr, "foresight-compress: %s holds %llu finished experts: --resume goes on from there\n",
                r->out.staging, (unsigned long long)num_finished(r));
    fs_stream_close(&r->stream, keep);
    r->out.keep = r->out.keep || keep;
    fs_output_fini(&r->out);
    fs_journal_close(&r->journal);
    for (uint32_t i = 0; i < r->num_free; i++) fs_expert_job_destroy(r->job[i]);
    free(r->job);
    free(r->probe);
    free(r->choice);
    free(r->status);
    free(r->detail);
    fs_pool_destroy(r->pool);
    fs_windows_free(&r->windows);
}

fs_status fs_compress_calibrated(const fs_input *in, const char *out_path,
                                 const fs_calibrated_options *options, fs_detail *detail)
{
    run r = {.in = in, .options = options, .lock = PTHREAD_MUTEX_INITIALIZER};
    openblas_set_num_threads(1); /* a task is a thread's alone: sums in one order, whatever --threads says */
    fs_status st = check_family(in, detail);
    if (st == FS_OK) st = fs_windows_load(in, &options->text, &r.windows, detail);
    if (st == FS_OK) st = fs_plan_make(in, &r.windows, options, &r.plan, detail);
    if (st == FS_OK && options->dry_run)
        fs_plan_print(&r.plan, options, &r.windows);
    else if (st == FS_OK)
        st = go(&r, out_path, detail);
    tear_down(&r, st);
    return st;
}
