/* tools/compress/report.c: what a run measured, as JSON, and the page beside it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/buffer.h"
#include "calibrated.h"
#include "model/names.h"

uint64_t fs_peak_memory_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

static const char *const part_name[FS_NUM_EXPERT_PARTS] = {"gate", "up", "down"};

static json_t *json_of_expert(const fs_journal_expert *e)
{
    json_t *out = json_pack("{sIsI}", "rows", (json_int_t)e->result.num_rows, "borrowed",
                            (json_int_t)e->result.borrowed);
    for (int i = 0; out && i < FS_NUM_EXPERT_PARTS; i++) {
        const fs_matrix_result *m = &e->result.part[i];
        json_t *matrix = json_pack("{sssfsfsfsI}", "format", fs_rate_name(m->rate), "relative_error",
                                   m->error, "density", m->density, "damping", m->damping, "bytes",
                                   (json_int_t)m->bytes);
        if (json_object_set_new(out, part_name[i], matrix) != 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *json_of_layers(const fs_report *r)
{
    const fs_journal *j = r->journal;
    json_t *layers = json_array();
    for (uint32_t l = 0; layers && l < j->num_moe_layers; l++) {
        json_t *experts = json_array();
        for (uint32_t e = 0; experts && e < j->num_experts; e++)
            json_array_append_new(experts, json_of_expert(&j->expert[(size_t)l * j->num_experts + e]));
        json_array_append_new(layers,
                              json_pack("{sisO}", "layer", r->in->config.moe_layer[l], "experts", experts));
        json_decref(experts);
    }
    return layers;
}

static json_t *json_of(const fs_report *r)
{
    const fs_summary *s = r->summary;
    json_t *bytes = json_pack("{sIsIsIsIsIsI}", "backbone_files", (json_int_t)s->backbone_bytes,
                              "expert_files", (json_int_t)s->expert_bytes, "gate",
                              (json_int_t)s->part_bytes[0], "up", (json_int_t)s->part_bytes[1], "down",
                              (json_int_t)s->part_bytes[2], "json", (json_int_t)s->json_bytes);
    json_t *loss = json_pack("{sfsfsfsI}", "uncompressed", r->loss[FS_PLANE_DENSE], "compressed",
                             r->loss[FS_PLANE_SERVED], "difference",
                             r->loss[FS_PLANE_SERVED] - r->loss[FS_PLANE_DENSE], "tokens",
                             (json_int_t)r->num_loss_tokens);
    return json_pack(
        "{sssssssfsIsIsosososososfsIsb}", "input", r->in->dir, "output", r->out_path, "format",
        fs_format_name(r->options), "bits_per_weight", 8.0 * (double)s->expert_bytes / (double)r->num_weights,
        "expert_weights", (json_int_t)r->num_weights, "rare_experts", (json_int_t)r->rare_experts,
        "calibration_tokens", json_integer((json_int_t)r->windows->num_calibration * r->windows->length),
        "bytes", bytes, "loss_nats", loss, "layers", json_of_layers(r), "version", json_string(FS_VERSION),
        "seconds", r->seconds, "peak_memory_bytes", (json_int_t)fs_peak_memory_bytes(), "resumed",
        r->resumed);
}

static fs_status write_file(const char *path, const void *data, size_t size, fs_detail *detail)
{
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(data, 1, size, f) == size;
    if (f && fclose(f) != 0) good = false;
    return good ? FS_OK : fs_fail(detail, FS_IO, "--report: %s: %s", path, strerror(errno));
}

static bool page_path(const char *path, char out[4096])
{
    size_t size = strlen(path);
    if (size > 5 && strcmp(path + size - 5, ".json") == 0) size -= 5;
    return snprintf(out, 4096, "%.*s.html", (int)size, path) < 4096;
}

fs_status fs_report_write(const fs_report *report, const char *path, fs_detail *detail)
{
    char page_name[4096];
    fs_buffer page = {0};
    if (!page_path(path, page_name)) return fs_fail(detail, FS_INVALID, "--report: path is too long");
    json_t *root = json_of(report);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    fs_report_page(report, &page);
    fs_status st = text && !page.failed ? FS_OK : fs_fail(detail, FS_NO_MEMORY, "--report: no memory");
    if (st == FS_OK) st = write_file(path, text, strlen(text), detail);
    if (st == FS_OK) st = write_file(page_name, page.data, page.size, detail);
    fs_buffer_free(&page);
    free(text);
    json_decref(root);
    return st;
}
