/* tools/cli/cache_rows.c: see cache_rows.h. */
#include "cli/cache_rows.h"

#include <stdio.h>

/* The columns, in order; after them the optimum. */
static const struct {
    const char *name;
    fs_cache_policy policy;
    bool hints, prefetch;
} hows[FS_CACHE_COLUMNS] = {
    {"lru", FS_CACHE_LRU, false, false},
    {"lfu", FS_CACHE_LFU, false, false},
    {"lfru", FS_CACHE_LFRU, false, false},
    {"no hints", FS_CACHE_LOOKAHEAD, false, false},
    {"lookahead", FS_CACHE_LOOKAHEAD, true, false},
    {"prefetch", FS_CACHE_LOOKAHEAD, true, true},
};

fs_status fs_cache_row_run(const fs_visits *v, fs_cache_row *r, fs_detail *detail)
{
    r->room = fs_visits_room(v, r->percent);
    fs_status st = fs_cache_replay_optimum(v, r->room, &r->optimum, detail);
    for (int i = 0; st == FS_OK && i < FS_CACHE_COLUMNS; i++) {
        const fs_cache_replay_options o = {
            .policy = hows[i].policy, .hints = hows[i].hints, .prefetch = hows[i].prefetch, .room = r->room};
        st = fs_cache_replay_run(v, &o, &r->stats[i], detail);
    }
    return st;
}

static double share(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static double hits(const fs_visits *v, const fs_cache_row *r, int how)
{
    return share(r->stats[how].hits, v->num_keys);
}

json_t *fs_cache_row_json(const fs_visits *v, const fs_cache_row *r)
{
    json_t *list = json_object();
    for (int i = 0; i < FS_CACHE_COLUMNS; i++)
        json_object_set_new(list, hows[i].name, json_real(hits(v, r, i) / 100));
    json_object_set_new(list, "optimum", json_real(share(r->optimum.hits, v->num_keys) / 100));
    const fs_cache_stats *p = &r->stats[FS_CACHE_COLUMNS - 1];
    return json_pack("{s:i, s:i, s:o, s:I, s:I, s:I, s:I}", "percent", (int)r->percent, "experts",
                     (int)r->room, "hits", list, "loads", (json_int_t)p->loads, "optimum_loads",
                     (json_int_t)r->optimum.misses, "prefetched", (json_int_t)p->prefetched_bytes, "wasted",
                     (json_int_t)p->wasted_bytes);
}

void fs_cache_rows_print(const fs_visits *v, const fs_cache_row *rows, uint32_t num_rows)
{
    printf("\ncache hits, %% of %zu visits to experts:\n%8s", v->num_keys, "memory");
    for (int i = 0; i < FS_CACHE_COLUMNS; i++) printf(" %10s", hows[i].name);
    printf(" %10s %8s %8s\n", "optimum", "loads", "wasted");
    for (uint32_t i = 0; i < num_rows; i++) {
        const fs_cache_stats *p = &rows[i].stats[FS_CACHE_COLUMNS - 1];
        printf("%6u %%", rows[i].percent);
        for (int how = 0; how < FS_CACHE_COLUMNS; how++) printf(" %10.1f", hits(v, &rows[i], how));
        printf(" %10.1f %8.2f %6.2f %%\n", share(rows[i].optimum.hits, v->num_keys),
               share(p->loads, rows[i].optimum.misses) / 100, share(p->wasted_bytes, p->prefetched_bytes));
    }
    printf("(prefetch: what is announced is loaded ahead, and loads take no time; loads: its loads for each "
           "of the optimum's, which\n"
           " loads on demand; wasted: of what was prefetched, let go before it was used)\n");
}
