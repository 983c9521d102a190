/* tools/compress/main.c: foresight-compress: a Hugging Face checkpoint in, a compressed model directory out. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/worker.h"
#include "compress.h"

enum { EXIT_USAGE = 2, EXIT_STOPPED = 130 };

typedef struct {
    bool lossless;
    uint32_t threads;
} settings;

static const fs_conf_option options[] = {
    {.name = "lossless",
     .type = FS_CONF_BOOL,
     .offset = offsetof(settings, lossless),
     .help = "Pack experts that are ternary 2:16 already, exactly; refuse any others."},
    {.name = "threads",
     .type = FS_CONF_U32,
     .offset = offsetof(settings, threads),
     .default_text = "0",
     .max = 1024,
     .help = "Threads that encode; 0: as many as there are CPUs."},
    {0}};

static const fs_conf_spec spec = {
    "foresight-compress",
    "Packs a mixture-of-experts checkpoint IN into the model directory OUT, which must not exist.", "IN OUT",
    options};

static volatile sig_atomic_t stopped;

bool fs_compress_stopped(void)
{
    return stopped != 0;
}

static void on_stop(int number)
{
    stopped = number;
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
    printf("  experts  %12.3f MB  %u experts in %u layers, blocked 2:16\n", mb(s->expert_bytes),
           s->num_experts, config->num_moe_layers);
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

static fs_status compress(const char *in_dir, const char *out_dir, uint32_t threads, fs_detail *detail)
{
    fs_input in = {0};
    fs_output out = {0};
    fs_pool *pool = NULL;
    fs_summary summary = {0};
    fs_status st = open_input(in_dir, &in, detail);
    if (st == FS_OK) st = fs_output_begin(out_dir, &out, detail);
    if (st != FS_OK) goto out;
    st = fs_pool_create(threads ? threads : fs_num_cpus(), &pool);
    if (st != FS_OK) {
        st = fs_fail(detail, st, "--threads: %u threads cannot be started", threads);
        goto out;
    }
    st = fs_pack_lossless(&in, pool, &out, &summary, detail);
    if (st == FS_OK) st = fs_pack_json(&in, &out, &summary, detail);
    if (st == FS_OK) st = fs_verify(&in, out.staging, pool, detail);
    if (st == FS_OK && stopped) st = fs_fail(detail, FS_CANCELLED, "stopped");
    if (st == FS_OK) st = fs_output_commit(&out, detail);
    if (st == FS_OK) print_summary(&summary, &in.config, out.path);
out:
    fs_output_fini(&out);
    fs_pool_destroy(pool);
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
    } else if (outcome == FS_CONF_RUN && !set.lossless) {
        snprintf(
            detail.text, sizeof(detail.text),
            "only lossless packing exists so far: give --lossless with a checkpoint that is ternary already");
        code = EXIT_USAGE;
    } else if (outcome == FS_CONF_RUN) {
        set_signals();
        st = compress(words[0], words[1], set.threads, &detail);
        code = st == FS_OK ? EXIT_SUCCESS : st == FS_CANCELLED ? EXIT_STOPPED : EXIT_FAILURE;
    }
    if (code != EXIT_SUCCESS) fprintf(stderr, "foresight-compress: %s\n", detail.text);
    fs_conf_destroy(conf);
    return code;
}
