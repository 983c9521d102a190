/* tools/compress/report_page.c: the report as one page: tables and inline SVG, nothing to load. */
#include <inttypes.h>
#include <math.h>

#include "base/buffer.h"
#include "calibrated.h"
#include "model/names.h"

enum { WIDTH = 720, BAR = 18, CELL = 14, MAX_CELLS = 256 };
static const char *const part_name[FS_NUM_EXPERT_PARTS] = {"gate", "up", "down"};
static const char *const part_colour[FS_NUM_EXPERT_PARTS] = {"#4269d0", "#efb118", "#ff725c"};

/* Text of the user's, such as a path. */
static void append_text(fs_buffer *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            fs_buffer_printf(out, "&lt;");
        else if (*text == '&')
            fs_buffer_printf(out, "&amp;");
        else
            fs_buffer_append_u8(out, (uint8_t)*text);
    }
}

static void append_bar(fs_buffer *out, const char *name, uint64_t bytes, uint64_t most, int y)
{
    double width = most ? 420.0 * (double)bytes / (double)most : 0;
    fs_buffer_printf(
        out, "<text x='0' y='%d'>%s</text><rect x='130' y='%d' width='%.1f' height='13' fill='#4269d0'/>",
        y + 12, name, y + 1, width);
    fs_buffer_printf(out, "<text x='%.0f' y='%d'>%.3f MB</text>\n", 136 + width, y + 12, (double)bytes / 1e6);
}

static void append_sizes(const fs_report *r, fs_buffer *out)
{
    const fs_summary *s = r->summary;
    const struct {
        const char *name;
        uint64_t bytes;
    } bars[] = {{"backbone", s->backbone_bytes},
                {"gate", s->part_bytes[0]},
                {"up", s->part_bytes[1]},
                {"down", s->part_bytes[2]},
                {"headers", s->expert_bytes - s->part_bytes[0] - s->part_bytes[1] - s->part_bytes[2]},
                {"json", s->json_bytes}};
    uint64_t most = 0;
    for (int i = 0; i < 6; i++) most = bars[i].bytes > most ? bars[i].bytes : most;
    fs_buffer_printf(out, "<h2>Bytes by part</h2><svg width='%d' height='%d'>", WIDTH, 6 * BAR);
    for (int i = 0; i < 6; i++) append_bar(out, bars[i].name, bars[i].bytes, most, i * BAR);
    fs_buffer_printf(out, "</svg>\n");
}

static double mean_error(const fs_report *r, uint32_t layer, int part)
{
    const fs_journal *j = r->journal;
    double sum = 0;
    for (uint32_t e = 0; e < j->num_experts; e++)
        sum += j->expert[(size_t)layer * j->num_experts + e].result.part[part].error / j->num_experts;
    return sum;
}

/* A line a part over the layers. */
static void append_errors(const fs_report *r, fs_buffer *out)
{
    const uint32_t layers = r->journal->num_moe_layers;
    double most = 1e-9;
    for (uint32_t l = 0; l < layers; l++)
        for (int p = 0; p < FS_NUM_EXPERT_PARTS; p++) most = fmax(most, mean_error(r, l, p));
    fs_buffer_printf(
        out,
        "<h2>Error by layer</h2><p>Mean over the experts of |Wd - Qx|&sup2; / |Wd|&sup2;, up to %.3f.</p>"
        "<svg width='%d' height='220'>",
        most, WIDTH);
    for (int p = 0; p < FS_NUM_EXPERT_PARTS; p++) {
        fs_buffer_printf(out, "<polyline fill='none' stroke-width='2' stroke='%s' points='", part_colour[p]);
        for (uint32_t l = 0; l < layers; l++)
            fs_buffer_printf(out, "%.1f,%.1f ", 20 + 600.0 * l / (layers > 1 ? layers - 1 : 1),
                             200 - 190 * mean_error(r, l, p) / most);
        fs_buffer_printf(out, "'/><text x='640' y='%d' fill='%s'>%s</text>", 20 + 18 * p, part_colour[p],
                         part_name[p]);
    }
    fs_buffer_printf(out, "</svg>\n");
}

/* A square an expert, darker with more rows (logarithm); those that borrowed rows have a red edge. */
static void append_usage(const fs_report *r, fs_buffer *out)
{
    const fs_journal *j = r->journal;
    const uint32_t shown = j->num_experts < MAX_CELLS ? j->num_experts : MAX_CELLS;
    uint64_t most = 1;
    for (size_t i = 0; i < (size_t)j->num_moe_layers * j->num_experts; i++)
        most = j->expert[i].result.num_rows > most ? j->expert[i].result.num_rows : most;
    fs_buffer_printf(
        out,
        "<h2>Use of the experts</h2><p>A row a layer, a square an expert: calibration rows, at most %" PRIu64
        "; red: fewer rows than columns, %" PRIu64 " of them in all.</p><svg width='%u' height='%u'>",
        most, r->rare_experts, shown * CELL + 4, j->num_moe_layers * CELL + 4);
    for (uint32_t l = 0; l < j->num_moe_layers; l++)
        for (uint32_t e = 0; e < shown; e++) {
            const fs_expert_result *x = &j->expert[(size_t)l * j->num_experts + e].result;
            int light = (int)(95 - 65 * log1p((double)x->num_rows) / log1p((double)most));
            fs_buffer_printf(out, "<rect x='%u' y='%u' width='12' height='12' fill='hsl(220,60%%,%d%%)'%s>",
                             2 + e * CELL, 2 + l * CELL, light, x->borrowed ? " stroke='red'" : "");
            fs_buffer_printf(
                out, "<title>layer %u expert %u: %" PRIu64 " rows, error %.3f %.3f %.3f</title></rect>\n",
                r->in->config.moe_layer[l], e, x->num_rows, x->part[0].error, x->part[1].error,
                x->part[2].error);
        }
    fs_buffer_printf(out, "</svg>\n");
}

void fs_report_page(const fs_report *r, fs_buffer *out)
{
    const double dense = r->loss[FS_PLANE_DENSE], served = r->loss[FS_PLANE_SERVED];
    fs_buffer_printf(
        out, "<!doctype html><meta charset='utf-8'><title>foresight-compress</title>"
             "<style>body{font:14px sans-serif;max-width:900px;margin:2em auto}td,th{padding:2px "
             "12px;text-align:left}"
             "svg text{font:12px sans-serif}svg{max-width:100%%}</style><h1>foresight-compress</h1><p>");
    append_text(out, r->in->dir);
    fs_buffer_printf(out, " &rarr; ");
    append_text(out, r->out_path);
    fs_buffer_printf(
        out, "<table><tr><th>format<td>%s<tr><th>bits a weight<td>%.4f (of %" PRIu64 " weights, whole files)",
        fs_format_name(r->options), 8.0 * (double)r->summary->expert_bytes / (double)r->num_weights,
        r->num_weights);
    fs_buffer_printf(out,
                     "<tr><th>perplexity, uncompressed<td>%.3f (%.4f nats)<tr><th>perplexity, "
                     "compressed<td>%.3f (%.4f nats, %+.4f)",
                     exp(dense), dense, exp(served), served, served - dense);
    fs_buffer_printf(out, "<tr><th>held-back tokens<td>%" PRIu64 "<tr><th>calibration tokens<td>%" PRIu64,
                     r->num_loss_tokens, (uint64_t)r->windows->num_calibration * r->windows->length);
    fs_buffer_printf(out, "<tr><th>time<td>%.1f s%s<tr><th>peak memory<td>%.0f MB</table>\n", r->seconds,
                     r->resumed ? " since it was resumed" : "", (double)fs_peak_memory_bytes() / 1e6);
    append_sizes(r, out);
    append_errors(r, out);
    append_usage(r, out);
}
