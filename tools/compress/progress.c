/* tools/compress/progress.c: how far a run is, and how long it will take. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "calibrated.h"

enum { REDRAW_MS = 200 };

static int64_t now(void)
{
    return fs_clock_now(fs_clock_system());
}

void fs_progress_begin(fs_progress *p, uint64_t total, uint64_t done)
{
    *p = (fs_progress){isatty(STDERR_FILENO) == 1, total, done, done, now(), 0};
}

/* "1:02:03", or "?" before there is anything to tell from. */
static void left_text(const fs_progress *p, char out[32])
{
    uint64_t made = p->done - p->first;
    if (made == 0) {
        snprintf(out, 32, "?");
        return;
    }
    double seconds = (double)(now() - p->begun_ns) / 1e9 / (double)made * (double)(p->total - p->done);
    uint64_t s = (uint64_t)(seconds + 0.5);
    snprintf(out, 32, "%" PRIu64 ":%02u:%02u", s / 3600, (unsigned)(s / 60 % 60), (unsigned)(s % 60));
}

void fs_progress_step(fs_progress *p, uint32_t layer, uint32_t num_layers)
{
    char left[32];
    p->done++;
    if (!p->terminal || now() - p->drawn_ns < REDRAW_MS * FS_NS_PER_MS) return;
    p->drawn_ns = now();
    left_text(p, left);
    fprintf(stderr, "\rlayer %u of %u  expert %" PRIu64 " of %" PRIu64 "  %u %%  %s left\x1b[K", layer + 1,
            num_layers, p->done, p->total, (unsigned)(100 * p->done / p->total), left);
    fflush(stderr);
}

void fs_progress_layer(fs_progress *p, uint32_t layer, uint32_t num_layers)
{
    char left[32];
    if (p->terminal) return;
    left_text(p, left);
    fprintf(stderr, "layer %u of %u done, %s left\n", layer + 1, num_layers, left);
}

void fs_progress_end(fs_progress *p)
{
    if (p->terminal && p->drawn_ns) fprintf(stderr, "\r\x1b[K");
    p->drawn_ns = 0;
}
