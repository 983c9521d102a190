/* tools/cli/bench_plot.c: bars, written as SVG by hand. */
#include "cli/bench_plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 1000,
    LEFT = 190,   /* names end here */
    RIGHT = 720,  /* bars do */
    SPEEDS = 812, /* right edges of the columns */
    BITS = 896,
    SHARES = 980,
    BAR = 16,
    PITCH = 24,
    HEAD = 74,
    PANEL_HEAD = 46,
    PANEL_FOOT = 52
};

typedef struct {
    fs_buffer *out;
    const fs_sub1_bench_result *result;
    double low, high; /* decades, log10 of Gweights/s */
} plot;

typedef struct {
    const char *where, *title;
    double read; /* bytes a second of a plain read there */
    uint32_t count;
} panel;

static double x_of(const plot *p, double gweights)
{
    double at = (log10(gweights) - p->low) / (p->high - p->low);
    return LEFT + (RIGHT - LEFT) * (at < 0 ? 0 : at > 1 ? 1 : at);
}

/* What reading alone would allow. */
static double limit_of(const panel *in, const fs_sub1_bench_row *row)
{
    return in->read * 8 / row->bits_per_weight * row->batch * 1e-9;
}

static void text(const plot *p, double x, double y, const char *style, const char *words)
{
    fs_buffer_printf(p->out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">%s</text>\n", x, y, style, words);
}

static const char *colour(const char *format)
{
    if (strncmp(format, "ggml", 4) == 0) return "#d9822b";
    if (strcmp(format, "bf16") == 0) return "#8a8f98";
    return strncmp(format, "blocked", 7) == 0 ? "#2b6cb0"
           : strcmp(format, "free") == 0      ? "#2f9e6e"
                                              : "#7a5fb5";
}

static void draw_bar(const plot *p, const panel *in, const fs_sub1_bench_row *row, double y)
{
    char words[96];
    double end = x_of(p, row->gweights_per_s), mark = x_of(p, limit_of(in, row));
    text(p, LEFT - 10, y + 12.5, "name", row->format);
    fs_buffer_printf(p->out, "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", LEFT,
                     y, end - LEFT, BAR, colour(row->format));
    fs_buffer_printf(p->out, "<path class=\"mark\" d=\"M%.1f %.1fv%d\"/>\n", mark, y - 2, BAR + 4);
    snprintf(words, sizeof(words), "%.1f", row->gweights_per_s);
    text(p, SPEEDS, y + 12.5, "right", words);
    snprintf(words, sizeof(words), "%.3f", row->bits_per_weight);
    text(p, BITS, y + 12.5, "right", words);
    snprintf(words, sizeof(words), "%.0f %%", 100 * row->share_of_memory_read);
    text(p, SHARES, y + 12.5, "right", words);
}

/* The axis: a line and a number a decade, thinner lines between. */
static void draw_axis(const plot *p, double top, double bottom)
{
    for (int decade = (int)p->low; decade <= (int)p->high; decade++) {
        char words[32];
        double x = x_of(p, pow(10, decade));
        fs_buffer_printf(p->out, "<path class=\"decade\" d=\"M%.1f %.1fV%.1f\"/>\n", x, top, bottom);
        snprintf(words, sizeof(words), "%g", pow(10, decade));
        text(p, x, bottom + 16, "tick", words);
        for (int k = 2; k < 10 && decade < (int)p->high; k++)
            fs_buffer_printf(p->out, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n",
                             x_of(p, k * pow(10, decade)), top, bottom);
    }
    text(p, (LEFT + RIGHT) / 2.0, bottom + 34, "tick", "10\xe2\x81\xb9 weights a second (times rows of x)");
}

static double draw_panel(const plot *p, const panel *in, double top)
{
    char words[160];
    double y = top + PANEL_HEAD;
    snprintf(words, sizeof(words), "%s; a plain read: %.1f GB/s", in->title, in->read * 1e-9);
    text(p, 24, top + 18, "panel", words);
    text(p, SPEEDS, top + 36, "right", "10\xe2\x81\xb9 weights/s");
    text(p, BITS, top + 36, "right", "bits/weight");
    text(p, SHARES, top + 36, "right", "of the read");
    draw_axis(p, y - 4, y + in->count * PITCH);
    for (uint32_t i = 0; i < p->result->num_rows; i++) {
        const fs_sub1_bench_row *row = &p->result->row[i];
        if (strcmp(row->where, in->where) != 0 || row->bits_per_weight == 0) continue;
        draw_bar(p, in, row, y);
        y += PITCH;
    }
    return y + PANEL_FOOT;
}

static panel panel_of(const fs_sub1_bench_result *result, const char *where, const char *title)
{
    panel in = {.where = where, .title = title};
    for (uint32_t i = 0; i < result->num_rows; i++) {
        if (strcmp(result->row[i].where, where) != 0) continue;
        if (result->row[i].bits_per_weight == 0)
            in.read = result->row[i].bytes_per_s;
        else
            in.count++;
    }
    return in;
}

/* Whole decades around all bars and marks. */
static void choose_decades(plot *p, const panel panels[2])
{
    double least = 1e300, most = 0;
    for (uint32_t i = 0; i < p->result->num_rows; i++) {
        const fs_sub1_bench_row *row = &p->result->row[i];
        if (row->bits_per_weight == 0) continue;
        double limit = limit_of(&panels[strcmp(row->where, panels[1].where) == 0], row);
        least = fmin(least, fmin(row->gweights_per_s, limit));
        most = fmax(most, fmax(row->gweights_per_s, limit));
    }
    p->low = most > 0 ? floor(log10(least)) : 0;
    p->high = most > 0 ? ceil(log10(most)) : 1;
    if (p->high <= p->low) p->high = p->low + 1;
}

static void draw_head(const plot *p, int height)
{
    const fs_sub1_bench_row *row = &p->result->row[0];
    char words[200];
    fs_buffer_printf(
        p->out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
        "font-family=\"sans-serif\" font-size=\"13\">\n"
        "<style>text{fill:#222}.title{font-size:18px;font-weight:bold}.panel{font-weight:bold}"
        ".name,.right{text-anchor:end}.tick{text-anchor:middle;fill:#555}"
        ".decade{stroke:#b5bac2}.grid{stroke:#e8eaee}.mark{stroke:#111;stroke-width:2}</style>\n"
        "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
        WIDTH, height, WIDTH, height, WIDTH, height);
    text(p, 24, 30, "title", "Products with stored weights: speed by format");
    snprintf(words, sizeof(words),
             "matrix %ux%u, %u row%s of x, %u thread%s, kernels %s. Black marks: what a plain read of the "
             "same bytes "
             "would allow.",
             row->rows, row->cols, row->batch, row->batch == 1 ? "" : "s", row->threads,
             row->threads == 1 ? "" : "s", p->result->isa);
    text(p, 24, 52, "", words);
}

fs_status fs_bench_plot(const fs_sub1_bench_result *result, fs_buffer *out)
{
    const panel panels[2] = {panel_of(result, "l2", "In cache: one matrix again and again"),
                             panel_of(result, "dram", "From memory: no cache holds it")};
    plot p = {.out = out, .result = result};
    int height = HEAD;
    for (int i = 0; i < 2; i++)
        if (panels[i].count) height += PANEL_HEAD + PANEL_FOOT + (int)panels[i].count * PITCH;
    choose_decades(&p, panels);
    draw_head(&p, height);
    double top = HEAD;
    for (int i = 0; i < 2; i++)
        if (panels[i].count) top = draw_panel(&p, &panels[i], top);
    fs_buffer_printf(out, "</svg>\n");
    return out->failed ? FS_NO_MEMORY : FS_OK;
}
