/* tools/cli/bench_plot.h: the results of `foresight bench sub1` as a picture. */
#ifndef FS_CLI_BENCH_PLOT_H
#define FS_CLI_BENCH_PLOT_H

#include "base/buffer.h"
#include "bench/bench.h"

/* An SVG document: a panel for each place, a bar for each format on one logarithmic axis of weights a second, and beside each bar the mark
 * of what a memory read of the same bytes would allow. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_bench_plot(const fs_sub1_bench_result *result, fs_buffer *out);

#endif
