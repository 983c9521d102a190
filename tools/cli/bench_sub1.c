/* tools/cli/bench_sub1.c: `foresight bench sub1`: products with compressed weights beside bf16, ggml's formats and a memory read. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "cli/bench_plot.h"
#include "cli/cli.h"
#include "compute/kernels.h"

typedef struct {
    const char *shape, *ggml, *svg;
    uint32_t batch, threads, rounds;
    uint64_t memory;
    bool json;
} sub1_options;
#define AT(field)    offsetof(sub1_options, field)
#define DEFAULT_PLOT "sub1_bench.svg"

static const fs_conf_option table[] = {
    {.name = "shape",
     .type = FS_CONF_STRING,
     .offset = AT(shape),
     .default_text = "768x2048",
     .value_name = "ROWSxCOLUMNS",
     .help = "The matrix; both are multiples of 16."},
    {.name = "batch",
     .type = FS_CONF_U32,
     .offset = AT(batch),
     .default_text = "1",
     .min = 1,
     .max = 256,
     .help = "Rows of x that each matrix is multiplied with."},
    {.name = "threads",
     .type = FS_CONF_U32,
     .offset = AT(threads),
     .default_text = "1",
     .min = 1,
     .max = 1024,
     .help = "Threads that share the work."},
    {.name = "ggml",
     .type = FS_CONF_STRING,
     .offset = AT(ggml),
     .value_name = "PATH",
     .help = "A build of ggml to compare with: libggml-cpu.so, or the folder with it."},
    {.name = "rounds",
     .type = FS_CONF_U32,
     .offset = AT(rounds),
     .default_text = "200",
     .min = 1,
     .max = 1000000,
     .help = "Short runs of each format in each place, in turns; the best counts."},
    {.name = "memory",
     .type = FS_CONF_BYTES,
     .offset = AT(memory),
     .default_text = "64MiB",
     .min = 1u << 20,
     .max = (uint64_t)1 << 40,
     .help = "How much of each format the runs from memory go through."},
    {.name = "svg",
     .type = FS_CONF_STRING,
     .offset = AT(svg),
     .value_name = "FILE",
     .help = "Where the plot is written; left out: " DEFAULT_PLOT ", or, with --json, nowhere."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight bench sub1",
    .summary = "Measures products with compressed weights beside bf16, ggml and a memory read.",
    .options = table};

static fs_status parse_shape(const char *text, fs_sub1_bench_options *out, fs_detail *detail)
{
    unsigned long side[2] = {0};
    const char *at = text;
    for (int i = 0; i < 2; i++) {
        char *end = (char *)at;
        errno = 0;
        if (*at >= '0' && *at <= '9') side[i] = strtoul(at, &end, 10);
        if (end == at || errno || side[i] > UINT32_MAX || *end != (i == 0 ? 'x' : '\0'))
            return fs_fail(detail, FS_INVALID, "--shape: '%.80s' is not ROWSxCOLUMNS, such as 768x2048",
                           text);
        at = end + 1;
    }
    out->rows = (uint32_t)side[0];
    out->cols = (uint32_t)side[1];
    return FS_OK;
}

/* ---- results ---- */

static json_t *result_json(const fs_sub1_bench_result *result)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < result->num_rows; i++) {
        const fs_sub1_bench_row *r = &result->row[i];
        char shape[32];
        snprintf(shape, sizeof(shape), "%ux%u", r->rows, r->cols);
        json_array_append_new(
            rows, json_pack("{s:s, s:s, s:i, s:i, s:s, s:f, s:f, s:f, s:f, s:f}", "format", r->format,
                            "shape", shape, "batch", (int)r->batch, "threads", (int)r->threads, "where",
                            r->where, "bits_per_weight", r->bits_per_weight, "gweights_per_s",
                            r->gweights_per_s, "weights_per_cycle", r->weights_per_cycle, "bytes_per_s",
                            r->bytes_per_s, "share_of_memory_read", r->share_of_memory_read));
    }
    return json_pack("{s:o}", "rows", rows);
}

static void print_table(const fs_sub1_bench_result *result)
{
    const fs_sub1_bench_row *first = &result->row[0];
    printf("%ux%u, %u row%s of x, %u thread%s, kernels %s, the best of %u runs\n\n", first->rows, first->cols,
           first->batch, first->batch == 1 ? "" : "s", first->threads, first->threads == 1 ? "" : "s",
           result->isa, result->rounds);
    printf("%-5s %-24s %11s %11s %13s %9s %15s\n", "WHERE", "FORMAT", "BITS/WEIGHT", "GWEIGHTS/S",
           "WEIGHTS/CYCLE", "GB/S", "OF MEMORY READ");
    for (uint32_t i = 0; i < result->num_rows; i++) {
        const fs_sub1_bench_row *r = &result->row[i];
        if (i > 0 && r->bits_per_weight == 0) printf("\n");
        printf("%-5s %-24s ", r->where, r->format);
        if (r->bits_per_weight == 0)
            printf("%11s %11s %13s ", "-", "-", "-");
        else
            printf("%11.3f %11.1f %13.1f ", r->bits_per_weight, r->gweights_per_s, r->weights_per_cycle);
        printf("%9.1f %13.0f %%\n", r->bytes_per_s * 1e-9, 100 * r->share_of_memory_read);
    }
}

/* Where the plot goes. */
typedef struct {
    const char *path; /* NULL: nowhere */
    int fd;
    bool made; /* by this run */
} plot_file;

/* Before anything is measured: a name that cannot be is told at once. What it held stays until there is a plot. */
static fs_status open_plot(plot_file *plot, fs_detail *detail)
{
    plot->fd = open(plot->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    plot->made = plot->fd >= 0;
    if (plot->fd < 0 && errno == EEXIST) plot->fd = open(plot->path, O_WRONLY | O_CLOEXEC);
    if (plot->fd >= 0) return FS_OK;
    return fs_fail(detail, FS_IO, "%s: %s; --svg names another file for the plot", plot->path,
                   strerror(errno));
}

static fs_status write_all(int fd, const fs_buffer *bytes)
{
    for (size_t at = 0; at < bytes->size;) {
        ssize_t wrote = write(fd, bytes->data + at, bytes->size - at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return FS_IO;
        at += (size_t)wrote;
    }
    return FS_OK;
}

static fs_status write_plot(plot_file *plot, const fs_sub1_bench_result *result, fs_detail *detail)
{
    fs_buffer svg = {0};
    fs_status st = fs_bench_plot(result, &svg);
    if (st != FS_OK) {
        fs_fail(detail, st, "%s: no memory for the plot", plot->path);
    } else if ((ftruncate(plot->fd, 0) != 0 && errno != EINVAL) || /* EINVAL: not a file, as /dev/null */
               write_all(plot->fd, &svg) != FS_OK) {
        st = fs_fail(detail, FS_IO, "%s: %s", plot->path, strerror(errno));
    } else {
        plot->made = false; /* and so stays */
    }
    fs_buffer_free(&svg);
    return st;
}

static void close_plot(const plot_file *plot)
{
    if (plot->fd >= 0) close(plot->fd);
    if (plot->made) unlink(plot->path);
}

static fs_status measure(const sub1_options *o, fs_sub1_bench_result *result, fs_detail *detail)
{
    fs_sub1_bench_options bench = {.batch = o->batch,
                                   .threads = o->threads,
                                   .rounds = o->rounds,
                                   .memory = o->memory,
                                   .l2 = true,
                                   .dram = true,
                                   .ggml = o->ggml};
    fs_status st = parse_shape(o->shape, &bench, detail);
    if (st == FS_OK) st = fs_isa_check(detail);
    return st == FS_OK ? fs_sub1_bench(&bench, result, detail) : st;
}

static int run(const sub1_options *o)
{
    static fs_sub1_bench_result result;
    plot_file plot = {.path = o->svg ? o->svg : o->json ? NULL : DEFAULT_PLOT, .fd = -1};
    fs_detail detail = {0};
    fs_status st = plot.path ? open_plot(&plot, &detail) : FS_OK;
    if (st == FS_OK) st = measure(o, &result, &detail);
    if (st == FS_OK && result.left_out[0]) fs_cli_complain("bench sub1", "left out: %s", result.left_out);
    if (st == FS_OK && o->json)
        fs_cli_print_json(result_json(&result));
    else if (st == FS_OK)
        print_table(&result);
    if (st == FS_OK && plot.path) st = write_plot(&plot, &result, &detail);
    if (st == FS_OK && plot.path && !o->json) printf("\nplot: %s\n", plot.path);
    close_plot(&plot);
    if (st == FS_OK) return FS_EXIT_OK;
    fs_cli_complain("bench sub1", "%s", detail.text);
    return st == FS_INVALID ? FS_EXIT_USAGE : FS_EXIT_FAILED;
}

int fs_cli_bench_sub1(int argc, char **argv)
{
    sub1_options o = {0};
    fs_conf *conf = NULL;
    int code = fs_cli_parse(&spec, argc, argv, &o, NULL, &conf);
    if (code != FS_CLI_GO_ON) return code;
    code = run(&o);
    fs_conf_destroy(conf);
    return code;
}
