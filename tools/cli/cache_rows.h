/* tools/cli/cache_rows.h: hits of every cache policy over a trace, a row for each share of the experts that memory holds. */
#ifndef FS_CLI_CACHE_ROWS_H
#define FS_CLI_CACHE_ROWS_H

#include <jansson.h>

#include "sim/cache_replay.h"

enum { FS_CACHE_ROWS = 16, FS_CACHE_COLUMNS = 6 };

/* Of one share of memory; the columns are named in cache_rows.c. */
typedef struct {
    uint32_t percent, room;
    fs_cache_stats stats[FS_CACHE_COLUMNS];
    fs_cache_optimum optimum;
} fs_cache_row;

/* row->percent is set. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_cache_row_run(const fs_visits *visits, fs_cache_row *row, fs_detail *detail);
json_t *fs_cache_row_json(const fs_visits *visits, const fs_cache_row *row);
void fs_cache_rows_print(const fs_visits *visits, const fs_cache_row *rows, uint32_t num_rows);

#endif
