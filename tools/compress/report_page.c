/* tools/compress/report_page.c: the report as one page: a table and inline SVG, nothing to load. */
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

/* "4.497 MB", "1.200 GB" */
static void append_size(fs_buffer *out, uint64_t bytes)
{
    if (bytes < 1000000000)
        fs_buffer_printf(out, "%.3f MB", (double)bytes / 1e6);
    else
        fs_buffer_printf(out, "%.3f GB", (double)bytes / 1e9);
}

static void append_bar(fs_buffer *out, const char *name, uint64_t bytes, uint64_t most, int y)
{
    double width = most ? 420.0 * (double)bytes / (double)most : 0;
    fs_buffer_printf(
        out, "<text x='0' y='%d'>%s</text><rect x='130' y='%d' width='%.1f' height='13' fill='#4269d0'/>",
        y + 12, name, y + 1, width);
    fs_buffer_printf(out, "<text x='%.0f' y='%d'>", 136 + width, y + 12);
    append_size(out, bytes);
    fs_buffer_printf(out, "</text>\n");
}

static void append_sizes(const fs_report *r, fs_buffer *out)
{
    const fs_summary *s = r->summary;
    const struct {
        const char *name;
        uint64_t bytes;
    } bars[] = {
        {"backbone", s->backbone_bytes},
        {"experts: gate", s->part_bytes[0]},
        {"experts: up", s->part_bytes[1]},
        {"experts: down", s->part_bytes[2]},
        {"experts: headers", s->expert_bytes - s->part_bytes[0] - s->part_bytes[1] - s->part_bytes[2]},
        {"json", s->json_bytes}};
    enum { NUM_BARS = sizeof(bars) / sizeof(bars[0]) };
    uint64_t most = 0;
    for (int i = 0; i < NUM_BARS; i++) most = bars[i].bytes > most ? bars[i].bytes : most;
    fs_buffer_printf(out, "<h2>Bytes by part</h2>\n<svg width='%d' height='%d'>\n", WIDTH, NUM_BARS * BAR);
    for (int i = 0; i < NUM_BARS; i++) append_bar(out, bars[i].name, bars[i].bytes, most, i * BAR);
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

static double plot_x(uint32_t layer, uint32_t layers)
{
    return layers > 1 ? 50 + 560.0 * layer / (layers - 1) : 330;
}

static double plot_y(double error, double most)
{
    return 195 - 185 * error / most;
}

/* Lines at 0, half and the most, and the layers' numbers, not more than fit. */
static void append_axes(const fs_report *r, double most, fs_buffer *out)
{
    const uint32_t layers = r->journal->num_moe_layers, step = layers / 20 + 1;
    for (int i = 0; i <= 2; i++) {
        const double y = plot_y(most * i / 2, most);
        fs_buffer_printf(out, "<path d='M45,%.1fH615' stroke='#ccc'/><text x='0' y='%.1f'>%.3f</text>", y,
                         y + 4, most * i / 2);
    }
    for (uint32_t l = 0; l < layers; l += step)
        fs_buffer_printf(out, "<text x='%.1f' y='215' text-anchor='middle'>%u</text>", plot_x(l, layers),
                         r->in->config.moe_layer[l]);
    fs_buffer_printf(out, "<text x='640' y='215'>layer</text>\n");
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
        "<h2>Error by layer</h2>\n<p>What the outputs of a matrix lose on the calibration text, of their "
        "energy: |Wd - Qx|&sup2; / |Wd|&sup2;, mean over the layer's experts.</p>\n"
        "<svg width='%d' height='225'>\n",
        WIDTH);
    append_axes(r, most, out);
    for (int p = 0; p < FS_NUM_EXPERT_PARTS; p++) {
        fs_buffer_printf(out, "<polyline fill='none' stroke-width='2' stroke='%s' points='", part_colour[p]);
        for (uint32_t l = 0; l < layers; l++)
            fs_buffer_printf(out, "%.1f,%.1f ", plot_x(l, layers), plot_y(mean_error(r, l, p), most));
        fs_buffer_printf(out, "'/><text x='640' y='%d' fill='%s'>%s</text>\n", 20 + 18 * p, part_colour[p],
                         part_name[p]);
        for (uint32_t l = 0; l < layers; l++)
            fs_buffer_printf(
                out,
                "<circle cx='%.1f' cy='%.1f' r='3' fill='%s'><title>layer %u, %s: %.4f</title></circle>\n",
                plot_x(l, layers), plot_y(mean_error(r, l, p), most), part_colour[p],
                r->in->config.moe_layer[l], part_name[p], mean_error(r, l, p));
    }
    fs_buffer_printf(out, "</svg>\n");
}

static double expert_error(const fs_expert_result *x)
{
    return (x->part[0].error + x->part[1].error + x->part[2].error) / FS_NUM_EXPERT_PARTS;
}

static double rows_shade(const fs_expert_result *x, double most)
{
    return log1p((double)x->num_rows) / log1p(most);
}

static double error_shade(const fs_expert_result *x, double most)
{
    return expert_error(x) / most;
}

/* A row a layer, a square an expert, its shade from 0 to 1; what it is of is told under the pointer. */
static void append_cells(const fs_report *r, int hue, double most,
                         double (*shade)(const fs_expert_result *, double), fs_buffer *out)
{
    const fs_journal *j = r->journal;
    const uint32_t shown = j->num_experts < MAX_CELLS ? j->num_experts : MAX_CELLS;
    if (shown < j->num_experts)
        fs_buffer_printf(out, "<p>The first %u of each layer's %u experts.</p>\n", shown, j->num_experts);
    fs_buffer_printf(out, "<div class='wide'><svg class='full' width='%u' height='%u'>\n", 34 + shown * CELL,
                     j->num_moe_layers * CELL + 4);
    for (uint32_t l = 0; l < j->num_moe_layers; l++) {
        fs_buffer_printf(out, "<text x='0' y='%u'>%u</text>", 12 + l * CELL, r->in->config.moe_layer[l]);
        for (uint32_t e = 0; e < shown; e++) {
            const fs_expert_result *x = &j->expert[(size_t)l * j->num_experts + e].result;
            fs_buffer_printf(out, "<rect x='%u' y='%u' width='12' height='12' fill='hsl(%d,60%%,%d%%)'%s>",
                             30 + e * CELL, 2 + l * CELL, hue, (int)(95 - 65 * shade(x, most)),
                             x->borrowed ? " stroke='red'" : "");
            fs_buffer_printf(out,
                             "<title>layer %u, expert %u: %" PRIu64 " rows, %" PRIu64
                             " borrowed; errors %.3f %.3f %.3f; %s %s %s</title></rect>\n",
                             r->in->config.moe_layer[l], e, x->num_rows, x->borrowed, x->part[0].error,
                             x->part[1].error, x->part[2].error, fs_rate_name(x->part[0].rate),
                             fs_rate_name(x->part[1].rate), fs_rate_name(x->part[2].rate));
        }
    }
    fs_buffer_printf(out, "</svg></div>\n");
}

static void append_experts(const fs_report *r, fs_buffer *out)
{
    const fs_journal *j = r->journal;
    const size_t count = (size_t)j->num_moe_layers * j->num_experts;
    uint64_t most = 1;
    double worst = 1e-9;
    for (size_t i = 0; i < count; i++) {
        most = j->expert[i].result.num_rows > most ? j->expert[i].result.num_rows : most;
        worst = fmax(worst, expert_error(&j->expert[i].result));
    }
    fs_buffer_printf(
        out,
        "<h2>Use of the experts</h2>\n<p>A row a layer, a square an expert: how many calibration rows the "
        "router sent to it, from none (light) to %" PRIu64
        " (dark), logarithmic. Red edge: fewer rows than its matrices have columns, so that it borrowed some "
        "of the layer's others, %" PRIu64 " of %zu experts. Point at a square for its numbers.</p>\n",
        most, r->rare_experts, count);
    append_cells(r, 220, (double)most, rows_shade, out);
    fs_buffer_printf(
        out,
        "<h2>Error of the experts</h2>\n<p>The same squares: mean error of the three matrices, from 0 "
        "(light) to %.3f (dark).</p>\n",
        worst);
    append_cells(r, 12, worst, error_shade, out);
}

static void append_time(fs_buffer *out, double seconds)
{
    const uint64_t s = (uint64_t)(seconds + 0.5);
    if (s < 120)
        fs_buffer_printf(out, "%.1f s", seconds);
    else
        fs_buffer_printf(out, "%" PRIu64 ":%02u:%02u", s / 3600, (unsigned)(s / 60 % 60), (unsigned)(s % 60));
}

static void append_table(const fs_report *r, fs_buffer *out)
{
    const double dense = r->loss[FS_PLANE_DENSE], served = r->loss[FS_PLANE_SERVED];
    fs_buffer_printf(out,
                     "<table>\n<tr><th>format<td>%s\n<tr><th>bits a weight<td>%.4f (of %" PRIu64
                     " weights, whole files)\n",
                     fs_format_name(r->options),
                     8.0 * (double)r->summary->expert_bytes / (double)r->num_weights, r->num_weights);
    fs_buffer_printf(out, "<tr><th>experts<td>");
    append_size(out, r->summary->expert_bytes);
    fs_buffer_printf(out, ", in 16 bits they are ");
    append_size(out, 2 * r->num_weights);
    fs_buffer_printf(out,
                     "\n<tr><th>perplexity, uncompressed<td>%.3f (%.4f nats a token)\n<tr><th>perplexity, "
                     "compressed<td>%.3f (%.4f nats, %+.4f)\n",
                     exp(dense), dense, exp(served), served, served - dense);
    fs_buffer_printf(out, "<tr><th>measured on<td>%" PRIu64 " held-back tokens\n", r->num_loss_tokens);
    fs_buffer_printf(out, "<tr><th>calibrated on<td>%" PRIu64 " tokens of ",
                     (uint64_t)r->windows->num_calibration * r->windows->length);
    append_text(out, r->options->text.calibration);
    fs_buffer_printf(out, "\n<tr><th>time<td>");
    append_time(out, r->seconds);
    fs_buffer_printf(out, "%s\n<tr><th>peak memory<td>", r->resumed ? " since it was resumed" : "");
    append_size(out, fs_peak_memory_bytes());
    fs_buffer_printf(out, "\n<tr><th>made by<td>foresight-compress " FS_VERSION "\n</table>\n");
}

void fs_report_page(const fs_report *r, fs_buffer *out)
{
    fs_buffer_printf(
        out, "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>foresight-compress</title>\n"
             "<style>body{font:14px sans-serif;max-width:900px;margin:2em auto;padding:0 1em}"
             "td,th{padding:2px 12px 2px 0;text-align:left}svg text{font:12px sans-serif}"
             "svg{max-width:100%%}svg.full{max-width:none}.wide{overflow-x:auto}</style>\n"
             "<h1>foresight-compress</h1>\n<p>");
    append_text(out, r->in->dir);
    fs_buffer_printf(out, " &rarr; ");
    append_text(out, r->out_path);
    fs_buffer_printf(out, "</p>\n");
    append_table(r, out);
    append_sizes(r, out);
    append_errors(r, out);
    append_experts(r, out);
}
