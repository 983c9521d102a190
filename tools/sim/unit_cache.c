/* tools/sim/unit_cache.c: see unit_cache.h. */
#include "sim/unit_cache.h"

#include <stdlib.h>
#include <string.h>

uint64_t *fs_unit_bytes(const fs_visits *v)
{
    uint32_t n = fs_visits_num_keys(v);
    uint64_t *bytes = malloc(n * sizeof *bytes);
    for (uint32_t i = 0; bytes && i < n; i++) bytes[i] = 1;
    return bytes;
}

fs_status fs_unit_cache_create(const fs_visits *v, const fs_unit_cache_options *o, fs_cache **out)
{
    uint64_t *bytes = fs_unit_bytes(v);
    uint8_t *wanted = malloc(fs_visits_num_keys(v));
    const fs_cache_options options = {.policy = o->policy,
                                      .prefetch = o->prefetch,
                                      .num_layers = v->model.num_moe_layers,
                                      .num_experts = v->model.num_experts,
                                      .key_bytes = bytes,
                                      .budget_bytes = o->room,
                                      .max_loads = o->max_loads,
                                      .hint_grace_ns = o->hint_grace_ns};
    fs_status st = bytes && wanted ? fs_cache_create(&options, out) : FS_NO_MEMORY;
    if (st == FS_OK) {
        memset(wanted, 1, fs_visits_num_keys(v));
        fs_cache_assign(*out, wanted);
    }
    free(bytes);
    free(wanted);
    return st;
}
