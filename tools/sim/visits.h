/* tools/sim/visits.h: a trace as what a cache sees: visits to one layer's experts, one after the other. */
#ifndef FS_SIM_VISITS_H
#define FS_SIM_VISITS_H

#include "trace/trace.h"

#define FS_NO_VISIT SIZE_MAX

/* A micro-batch's rows at one MoE layer. Keys are moe_layer * num_experts + expert. */
typedef struct {
    int64_t time_ns;
    uint32_t lane, layer, step; /* step: numbered as they begin, over all lanes */
    uint32_t num_rows;
    size_t first; /* keys [first, first + num_keys) of fs_visits.key, ascending, each once */
    uint32_t num_keys;
    size_t following; /* the next visit of the same step; FS_NO_VISIT: none */
} fs_visit;

/* When a micro-batch was planned: its visits' experts are all known from then on. */
typedef struct {
    int64_t time_ns;
    uint32_t lane, num_parts, num_rows;
    size_t next_visit;  /* visits below it came before */
    size_t first_visit; /* of this step; FS_NO_VISIT: none */
} fs_visit_step;

typedef struct {
    fs_trace_model model;
    uint32_t num_arrivals, num_ended;
    uint32_t num_lanes;  /* that have made a visit, and those below them */
    uint64_t num_tokens; /* rows of all steps */
    int64_t duration_ns;
    bool cut; /* the file ends in the middle of an event */
    fs_visit *visit;
    size_t num_visits, visit_capacity;
    uint32_t *key;
    size_t num_keys, key_capacity;
    fs_visit_step *step;
    size_t num_steps, step_capacity;
    uint16_t *route; /* [num_tokens][num_moe_layers][top_k] of the rows as they ran */
    size_t route_capacity;
} fs_visits;

/* Reads a whole trace. FS_CORRUPT: its bytes, or what they say cannot have happened (a step of tokens without routes, two steps in a lane): the detail says
 * what; FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_visits_read(const uint8_t *data, size_t size, const char *name, fs_visits *out,
                                     fs_detail *detail);
/* The same from a file, at most 1 GiB; and every status of fs_file_read. */
FS_MUST_USE fs_status fs_visits_load(const char *path, fs_visits *out, fs_detail *detail);
void fs_visits_free(fs_visits *visits);

static inline uint32_t fs_visits_num_keys(const fs_visits *v)
{
    return v->model.num_moe_layers * v->model.num_experts;
}
/* Experts in a memory that holds so many percent of all, at least one. */
static inline uint32_t fs_visits_room(const fs_visits *v, uint32_t percent)
{
    uint64_t room = (uint64_t)fs_visits_num_keys(v) * percent / 100;
    return room > 0 ? (uint32_t)room : 1;
}

#endif
