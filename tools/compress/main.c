/* tools/compress/main.c: foresight-compress: a Hugging Face checkpoint in, a compressed model directory out. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/worker.h"
#include "calibrated.h"

enum { EXIT_USAGE = 2, EXIT_STOPPED = 130 };

typedef struct {
    bool lossless, resume, dry_run;
    uint32_t threads, tokens, seed, method;
    uint64_t memory_bytes;
    double scale, bits, zeros;
    const char *format, *calibration, *held_back, *report;
} settings;

#define OPTION(option_name, option_type, member)                                                             \
    .name = option_name, .type = option_type, .offset = offsetof(settings, member)
static const fs_conf_option options[] = {
    {OPTION("format", FS_CONF_STRING, format), .default_text = "auto", .value_name = "FORMAT",
     .help = "How experts are stored: auto (blocked:2:16), blocked:1:16, blocked:2:16 (or blocked), "
             "blocked:3:16, "
             "free."},
    {OPTION("bits", FS_CONF_FLOAT, bits), .default_text = "0", .fmin = 0, .fmax = 16, .value_name = "B",
     .help = "Bits a weight, files counted whole: a layer's matrices get blocked 1:16 to 3:16, as their "
             "measured errors say."},
    {OPTION("calibration", FS_CONF_STRING, calibration), .default_text = "auto", .value_name = "FILE",
     .help = "Text that the model is measured on; auto: the public-domain books that are installed with the "
             "program."},
    {OPTION("held-back", FS_CONF_STRING, held_back), .value_name = "FILE",
     .help = "Text that the loss is told for; without it every eighth window of the calibration text is held "
             "back."},
    {OPTION("tokens", FS_CONF_U32, tokens), .default_text = "0",
     .help = "Calibration tokens at most; 0: all of the text."},
    {OPTION("seed", FS_CONF_U32, seed), .default_text = "0",
     .help = "Which tokens of the text, where it has more."},
    {OPTION("memory", FS_CONF_BYTES, memory_bytes), .default_text = "0",
     .help = "Memory to stay within; 0: three quarters of the machine's."},
    {OPTION("threads", FS_CONF_U32, threads), .default_text = "0", .max = 1024,
     .help = "Threads; 0: as many as there are CPUs. The output does not depend on it."},
    {OPTION("resume", FS_CONF_BOOL, resume), .help = "Go on with OUT.incomplete of a run that was cut off."},
    {OPTION("dry-run", FS_CONF_BOOL, dry_run), .help = "Tell sizes, memory and time, and write nothing."},
    {OPTION("report", FS_CONF_STRING, report), .value_name = "FILE",
     .help = "Write what was measured: JSON to FILE, and a page beside it that ends in .html."},
    {OPTION("method", FS_CONF_ENUM, method), .default_text = "foresight", .words = "foresight|gptq|nearest",
     .help = "How weights become ternary; the others are there to be compared with."},
    {OPTION("scale", FS_CONF_FLOAT, scale), .default_text = "0", .fmin = 0, .fmax = 100,
     .help = "Magnitude of a row over the mean of its kept weights (free: over its root mean square); 0: the "
             "format's own."},
    {OPTION("zeros", FS_CONF_FLOAT, zeros), .default_text = "0", .fmin = 0, .fmax = 0.99,
     .value_name = "SHARE",
     .help = "With --format free: this share of every matrix's weights becomes 0, 0.85 to 0.92 for instance: "
             "the more, the "
             "smaller. The magnitude that does it is looked for, which takes ten sweeps where one would do; "
             "0: as --scale "
             "gives."},
    {OPTION("lossless", FS_CONF_BOOL, lossless),
     .help = "Pack experts that are ternary already, exactly; refuse any others. --format auto: blocked "
             "where every "
             "16 columns have as many nonzeros, free elsewhere."},
    {0}};

static const fs_conf_spec spec = {
    "foresight-compress",
    "Compresses a mixture-of-experts checkpoint IN into the model directory OUT, which must not exist.",
    "IN OUT", options};

static void on_stop(int number)
{
    fs_compress_stop();
}

/* The input is mapped: a read error or a file cut short under us arrives as a signal. */
static void on_bus_error(int number)
{
    static const char text[] =
        "foresight-compress: an input file became unreadable or shorter while it was read; "
        "OUT.incomplete is left behind\n";
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) _exit(EXIT_FAILURE);
    _exit(EXIT_FAILURE);
}

static void set_signals(void)
{
    struct sigaction stop = {.sa_handler = on_stop, .sa_flags = (int)SA_RESETHAND}; /* the second one kills */
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGHUP, &stop, NULL);
    struct sigaction bus = {.sa_handler = on_bus_error};
    sigaction(SIGBUS, &bus, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file over its limit is an error of write() */
    signal(SIGPIPE, SIG_IGN);
}

static double mb(uint64_t bytes)
{
    return (double)bytes / 1e6;
}

static void print_summary(const fs_summary *s, const fs_model_config *config, const char *out)
{
    uint64_t blobs = s->part_bytes[0] + s->part_bytes[1] + s->part_bytes[2];
    printf("%s\n", out);
    printf("  backbone %12.3f MB  %u tensors in %u file%s, as they were\n", mb(s->backbone_bytes),
           s->num_backbone_tensors, s->num_backbone_files, s->num_backbone_files == 1 ? "" : "s");
    printf("  experts  %12.3f MB  %u experts in %u layers\n", mb(s->expert_bytes), s->num_experts,
           config->num_moe_layers);
    for (uint32_t n = 0; n < 4; n++)
        if (s->num_matrices[n] && n == 0)
            printf("    %llu matrices free\n", (unsigned long long)s->num_matrices[n]);
        else if (s->num_matrices[n])
            printf("    %llu matrices blocked %u:16\n", (unsigned long long)s->num_matrices[n], n);
    printf(
        "    gate   %12.3f MB\n    up     %12.3f MB\n    down   %12.3f MB  (checksums and padding counted)\n",
        mb(s->part_bytes[0]), mb(s->part_bytes[1]), mb(s->part_bytes[2]));
    printf("    headers%12.3f MB\n", mb(s->expert_bytes - blobs));
    printf("  json     %12.3f MB  %u files\n", mb(s->json_bytes), s->num_json_files);
    printf("%.4f bits a weight: %llu weights of experts in %llu bytes of files\n",
           8.0 * (double)s->expert_bytes / (double)s->num_weights, (unsigned long long)s->num_weights,
           (unsigned long long)s->expert_bytes);
    printf("verified: read back, every weight and every other tensor is the input's\n");
}

static fs_status open_input(const char *dir, fs_input *in, fs_detail *detail)
{
    in->dir = dir;
    fs_status st = fs_model_config_load(dir, &in->config, detail);
    if (st != FS_OK) return st;
    if (in->config.expert_storage == FS_EXPERTS_SUB1)
        return fs_fail(detail, FS_INVALID, "%s: is compressed already", dir);
    if (in->config.num_moe_layers == 0) return fs_fail(detail, FS_INVALID, "%s: has no experts", dir);
    return fs_tensors_open(dir, &in->tensors, detail);
}

/* What config.json says of all matrices; 0 where they differ. */
static void common_format(const fs_summary *s, uint32_t *format, uint32_t *n)
{
    const uint64_t blocked = s->num_matrices[1] + s->num_matrices[2] + s->num_matrices[3];
    *format = !s->num_matrices[0] ? FS_SUB1_BLOCKED : !blocked ? FS_SUB1_FREE : 0;
    *n = 0;
    for (uint32_t i = 1; i < 4; i++)
        if (s->num_matrices[i] == blocked) *n = i;
}

static fs_status pack_lossless(const fs_input *in, const char *out_dir, const settings *set, uint32_t threads,
                               fs_detail *detail)
{
    fs_rate rate;
    uint32_t format, n;
    const bool any = strcmp(set->format, "auto") == 0;
    if (!any) {
        fs_status parsed = fs_rate_parse(set->format, &rate, detail);
        if (parsed != FS_OK) return parsed;
    }
    fs_output out = {0};
    fs_pool *pool = NULL;
    fs_summary summary = {0};
    fs_status st = fs_output_begin(out_dir, false, &out, detail);
    if (st != FS_OK) goto out;
    st = fs_pool_create(threads, &pool);
    if (st != FS_OK) {
        st = fs_fail(detail, st, "--threads: %u threads cannot be started", threads);
        goto out;
    }
    st = fs_pack_lossless(in, any ? NULL : &rate, pool, &out, &summary, detail);
    common_format(&summary, &format, &n);
    if (st == FS_OK) st = fs_pack_json(in, format, n, &out, &summary, detail);
    if (st == FS_OK) st = fs_verify(in, out.staging, pool, detail);
    if (st == FS_OK && fs_compress_stopped()) st = fs_fail(detail, FS_CANCELLED, "stopped");
    if (st == FS_OK) st = fs_output_commit(&out, detail);
    if (st == FS_OK) print_summary(&summary, &in->config, out.path);
out:
    fs_output_fini(&out);
    fs_pool_destroy(pool);
    return st;
}

/* Where the calibration text was installed, beside the program or where it was built. */
static fs_status find_text(char out[4096], fs_detail *detail)
{
    char program[2048];
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    program[n > 0 ? n : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash) *slash = 0;
    snprintf(out, 4096, "%s/../share/foresight/calibration.txt", program);
    if (access(out, R_OK) == 0) return FS_OK;
    snprintf(out, 4096, "%s", FS_SOURCE_SHARE "/calibration.txt");
    if (access(out, R_OK) == 0) return FS_OK;
    return fs_fail(detail, FS_NOT_FOUND,
                   "--calibration auto: the text is not installed: name a file of text");
}

static fs_status calibrate(const fs_input *in, const char *out_dir, const settings *set, uint32_t threads,
                           fs_detail *detail)
{
    char text[4096];
    fs_calibrated_options o = {.rate = {FS_SUB1_BLOCKED, 2, 16},
                               .method = (fs_method)set->method,
                               .text = {set->calibration, set->held_back, set->tokens, 256, set->seed},
                               .bits = set->bits,
                               .scale = set->scale,
                               .zeros = set->zeros,
                               .memory_bytes = set->memory_bytes,
                               .threads = threads,
                               .resume = set->resume,
                               .dry_run = set->dry_run,
                               .report = set->report};
    fs_status st = strcmp(set->format, "auto") == 0 ? FS_OK : fs_rate_parse(set->format, &o.rate, detail);
    if (st == FS_OK && strcmp(set->calibration, "auto") == 0) {
        st = find_text(text, detail);
        o.text.calibration = text;
    }
    if (st == FS_OK && set->bits > 0 && strcmp(set->format, "auto") != 0)
        st = fs_fail(detail, FS_INVALID, "--bits chooses formats itself: leave --format out");
    if (st == FS_OK && set->zeros > 0 && (o.rate.format != FS_SUB1_FREE || set->scale > 0))
        st = fs_fail(detail, FS_INVALID,
                     set->scale > 0 ? "--zeros looks for the scale itself: leave --scale out"
                                    : "--zeros is for --format free");
    if (o.text.length > in->config.max_positions) o.text.length = in->config.max_positions;
    return st == FS_OK ? fs_compress_calibrated(in, out_dir, &o, detail) : st;
}

static fs_status compress(const char *in_dir, const char *out_dir, const settings *set, fs_detail *detail)
{
    fs_input in = {0};
    const uint32_t threads = set->threads ? set->threads : fs_num_cpus();
    fs_status st = fs_isa_check(detail);
    if (st == FS_OK) st = open_input(in_dir, &in, detail);
    if (st == FS_OK)
        st = set->lossless ? pack_lossless(&in, out_dir, set, threads, detail)
                           : calibrate(&in, out_dir, set, threads, detail);
    fs_tensors_close(in.tensors);
    return st;
}

int main(int argc, char **argv)
{
    settings set = {0};
    const char *words[2] = {0};
    fs_conf *conf = NULL;
    fs_conf_outcome outcome = FS_CONF_RUN;
    fs_detail detail = {0};
    fs_status st = fs_conf_load(&spec, argc, argv, environ, &set, words, &conf, &outcome, stdout, &detail);
    int code = EXIT_SUCCESS;
    if (st != FS_OK) {
        code = EXIT_USAGE;
    } else if (outcome == FS_CONF_RUN) {
        set_signals();
        st = compress(words[0], words[1], &set, &detail);
        code = st == FS_OK ? EXIT_SUCCESS : st == FS_CANCELLED ? EXIT_STOPPED : EXIT_FAILURE;
    }
    if (code != EXIT_SUCCESS) fprintf(stderr, "foresight-compress: %s\n", detail.text);
    fs_conf_destroy(conf);
    return code;
}
