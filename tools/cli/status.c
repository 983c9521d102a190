/* tools/cli/status.c: `foresight status`: the cluster as its coordinator sees it, and a router as it sees itself. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"

typedef struct {
    const char *connect, *router;
    bool json;
} status_options;
#define AT(field) offsetof(status_options, field)

static const fs_conf_option table[] = {
    {.name = "connect",
     .type = FS_CONF_STRING,
     .offset = AT(connect),
     .value_name = "ADDR",
     .help = "The coordinator's gRPC address."},
    {.name = "router",
     .type = FS_CONF_STRING,
     .offset = AT(router),
     .value_name = "ADDR",
     .help = "A router's gRPC address: its load and where its time went."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {0},
};
static const fs_conf_spec spec = {.program = "foresight status",
                                  .summary = "Shows a cluster's members, their states and what is wrong.",
                                  .options = table};

static const char *kind_name(Foresight__V1__MemberKind kind)
{
    switch (kind) {
    case FORESIGHT__V1__MEMBER_KIND__MEMBER_KIND_ROUTER: return "router";
    case FORESIGHT__V1__MEMBER_KIND__MEMBER_KIND_EXPERT_NODE: return "expert";
    default: return "unknown";
    }
}

static const char *state_name(Foresight__V1__NodeState state)
{
    switch (state) {
    case FORESIGHT__V1__NODE_STATE__NODE_STATE_LOADING: return "loading";
    case FORESIGHT__V1__NODE_STATE__NODE_STATE_READY: return "ready";
    case FORESIGHT__V1__NODE_STATE__NODE_STATE_DRAINING: return "draining";
    case FORESIGHT__V1__NODE_STATE__NODE_STATE_LOST: return "lost";
    default: return "unknown";
    }
}

/* ---- JSON ---- */

static json_t *fingerprint_json(uint64_t fingerprint)
{
    char text[17];
    snprintf(text, sizeof(text), "%016" PRIx64, fingerprint);
    return json_string(text);
}

/* null: no limit of memory. */
static json_t *cache_json(const Foresight__V1__CacheStats *c)
{
    if (!c) return json_null();
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "memory_bytes", (json_int_t)c->memory_bytes, "hits",
                     (json_int_t)c->hits, "misses", (json_int_t)c->misses, "loaded_bytes",
                     (json_int_t)c->loaded_bytes, "prefetched_bytes", (json_int_t)c->prefetched_bytes,
                     "wasted_bytes", (json_int_t)c->wasted_bytes);
}

static json_t *member_json(const Foresight__V1__ClusterStatus__Member *m)
{
    return json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:f, s:s, s:s, s:o}", "name",
                     m->name, "id", (int)m->id, "kind", kind_name(m->kind), "state", state_name(m->state),
                     "address", m->address, "rack", m->rack, "experts_assigned", (int)m->experts_assigned,
                     "experts_loaded", (int)m->experts_loaded, "bytes_loaded", (json_int_t)m->bytes_loaded,
                     "rows_computed", (json_int_t)m->rows_computed, "silent_s", m->silent_s, "problem",
                     m->problem, "version", m->version, "cache", cache_json(m->cache));
}

static json_t *cluster_json(const Foresight__V1__ClusterStatus *s)
{
    json_t *problems = json_array(), *members = json_array();
    for (size_t i = 0; i < s->n_problems; i++) json_array_append_new(problems, json_string(s->problems[i]));
    for (size_t i = 0; i < s->n_members; i++) json_array_append_new(members, member_json(s->members[i]));
    return json_pack(
        "{s:b, s:s, s:o, s:I, s:i, s:i, s:i, s:i, s:f, s:s, s:o, s:o}", "serving", (int)s->serving, "model",
        s->model_name, "fingerprint", fingerprint_json(s->model_fingerprint), "epoch", (json_int_t)s->epoch,
        "nodes_expected", (int)s->nodes_expected, "replicas", (int)s->num_replicas, "experts_total",
        (int)s->experts_total, "experts_unavailable", (int)s->experts_unavailable, "uptime_s", s->uptime_s,
        "version", s->coordinator_version, "problems", problems, "members", members);
}

static json_t *router_json(const Foresight__V1__RouterStats *s)
{
    json_t *time = json_object();
    for (size_t i = 0; i < s->n_time; i++)
        json_object_set_new(time, s->time[i]->part, json_real(s->time[i]->seconds));
    json_t *object = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } number[] = {
        {"sequences_waiting", s->sequences_waiting},
        {"sequences_running", s->sequences_running},
        {"kv_pages_used", s->kv_pages_used},
        {"kv_pages_total", s->kv_pages_total},
        {"kv_pages_cached", s->kv_pages_cached},
        {"dispatches_in_flight", s->dispatches_in_flight},
        {"nodes_connected", s->nodes_connected},
        {"placement_epoch", s->placement_epoch},
        {"requests_accepted", s->requests_accepted},
        {"requests_refused", s->requests_refused},
        {"requests_finished", s->requests_finished},
        {"requests_cancelled", s->requests_cancelled},
        {"requests_failed", s->requests_failed},
        {"prompt_tokens", s->prompt_tokens},
        {"generated_tokens", s->generated_tokens},
        {"steps", s->steps},
        {"dispatches", s->dispatches},
        {"redispatches", s->redispatches},
        {"preemptions", s->preemptions},
        {"tokens_recomputed", s->tokens_recomputed},
        {"prompt_tokens_cached", s->prompt_tokens_cached},
        {"routes_cached", s->routes_cached},
    };
    json_object_set_new(object, "name", json_string(s->name));
    json_object_set_new(object, "version", json_string(s->version));
    json_object_set_new(object, "uptime_s", json_real(s->uptime_s));
    json_object_set_new(object, "serving", json_boolean(s->serving));
    for (size_t i = 0; i < sizeof(number) / sizeof(*number); i++)
        json_object_set_new(object, number[i].name, json_integer((json_int_t)number[i].value));
    json_object_set_new(object, "time_s", time);
    return object;
}

/* ---- text ---- */

static void print_cache(const Foresight__V1__ClusterStatus__Member *m)
{
    const Foresight__V1__CacheStats *c = m->cache;
    if (!c || m->experts_loaded >= m->experts_assigned) return;
    uint64_t claims = c->hits + c->misses;
    printf("  %s: memory %.1f MB; %.1f %% of %" PRIu64
           " uses found their expert there; %.1f MB read, %.1f MB "
           "of it ahead, %.1f MB in vain\n",
           m->name, (double)c->memory_bytes / 1e6, claims ? 100.0 * (double)c->hits / (double)claims : 0.0,
           claims, (double)c->loaded_bytes / 1e6, (double)c->prefetched_bytes / 1e6,
           (double)c->wasted_bytes / 1e6);
}

static void print_cluster(const Foresight__V1__ClusterStatus *s)
{
    printf("model %s (%016" PRIx64 "), epoch %" PRIu64 ": %s\n",
           s->model_name[0] ? s->model_name : "not known yet", s->model_fingerprint, s->epoch,
           s->serving ? "serving" : "NOT SERVING");
    printf("%u experts, %u without a ready replica; %u expert nodes expected, %u replica%s of each expert\n",
           s->experts_total, s->experts_unavailable, s->nodes_expected, s->num_replicas,
           s->num_replicas == 1 ? "" : "s");
    for (size_t i = 0; i < s->n_problems; i++) printf("problem: %s\n", s->problems[i]);
    printf("\n%-14s %-7s %-9s %-22s %-8s %13s %12s %14s %8s\n", "NAME", "KIND", "STATE", "ADDRESS", "RACK",
           "EXPERTS", "BYTES", "ROWS", "SILENT");
    for (size_t i = 0; i < s->n_members; i++) {
        const Foresight__V1__ClusterStatus__Member *m = s->members[i];
        char experts[32];
        snprintf(experts, sizeof(experts), "%u/%u", m->experts_loaded, m->experts_assigned);
        printf("%-14s %-7s %-9s %-22s %-8s %13s %12" PRIu64 " %14" PRIu64 " %7.1fs\n", m->name,
               kind_name(m->kind), state_name(m->state), m->address, m->rack[0] ? m->rack : "-", experts,
               m->bytes_loaded, m->rows_computed, m->silent_s);
        print_cache(m);
        if (m->problem[0]) printf("  %s: %s\n", m->name, m->problem);
    }
}

static void print_router(const Foresight__V1__RouterStats *s)
{
    double total = 0;
    for (size_t i = 0; i < s->n_time; i++) total += s->time[i]->seconds;
    printf("router %s: %s, %u nodes connected, placement epoch %" PRIu64 "\n", s->name,
           s->serving ? "serving" : "NOT SERVING", s->nodes_connected, s->placement_epoch);
    printf("  sequences  %u running, %u waiting; %u of %u KV pages, %u more kept; %u dispatches in flight\n",
           s->sequences_running, s->sequences_waiting, s->kv_pages_used, s->kv_pages_total,
           s->kv_pages_cached, s->dispatches_in_flight);
    printf("  requests   %" PRIu64 " accepted, %" PRIu64 " finished, %" PRIu64 " cancelled, %" PRIu64
           " failed, %" PRIu64 " refused\n",
           s->requests_accepted, s->requests_finished, s->requests_cancelled, s->requests_failed,
           s->requests_refused);
    printf("  tokens     %" PRIu64 " of prompts, %" PRIu64 " generated; %" PRIu64 " steps, %" PRIu64
           " dispatches, %" PRIu64 " rows sent again\n",
           s->prompt_tokens, s->generated_tokens, s->steps, s->dispatches, s->redispatches);
    printf("  cache      %" PRIu64 " prompt tokens found; %" PRIu64 " preemptions, %" PRIu64
           " tokens computed again\n",
           s->prompt_tokens_cached, s->preemptions, s->tokens_recomputed);
    for (size_t i = 0; i < s->n_time; i++)
        printf("  %-16s %9.3f s  %5.1f %%\n", s->time[i]->part, s->time[i]->seconds,
               total > 0 ? 100 * s->time[i]->seconds / total : 0);
}

static fs_status ask(fs_cli *cli, const status_options *o, ProtobufCMessage **cluster,
                     ProtobufCMessage **router, fs_detail *detail)
{
    Foresight__V1__StatusRequest status = FORESIGHT__V1__STATUS_REQUEST__INIT;
    Foresight__V1__GetStatsRequest stats = FORESIGHT__V1__GET_STATS_REQUEST__INIT;
    if (!o->connect && !o->router)
        return fs_fail(detail, FS_INVALID, "give --connect ADDR (the coordinator), --router ADDR, or both");
    fs_status st = FS_OK;
    if (o->connect)
        st = fs_cli_call_address(cli, o->connect, "/foresight.v1.Control/Status", &status.base,
                                 &foresight__v1__cluster_status__descriptor, cluster, detail);
    if (st == FS_OK && o->router)
        st = fs_cli_call_address(cli, o->router, "/foresight.v1.Inference/GetStats", &stats.base,
                                 &foresight__v1__router_stats__descriptor, router, detail);
    return st;
}

static int run(fs_cli *cli, const void *options)
{
    const status_options *o = options;
    ProtobufCMessage *cluster = NULL, *router = NULL;
    fs_detail detail = {0};
    fs_status st = ask(cli, o, &cluster, &router, &detail);
    if (st != FS_OK) fs_cli_complain("status", "%s", detail.text);
    if (st == FS_OK && o->json) {
        json_t *object = cluster ? cluster_json((const Foresight__V1__ClusterStatus *)cluster)
                                 : json_object();
        if (router)
            json_object_set_new(object, "router", router_json((const Foresight__V1__RouterStats *)router));
        fs_cli_print_json(object);
    } else if (st == FS_OK) {
        if (cluster) print_cluster((const Foresight__V1__ClusterStatus *)cluster);
        if (cluster && router) printf("\n");
        if (router) print_router((const Foresight__V1__RouterStats *)router);
    }
    fs_message_free(cluster);
    fs_message_free(router);
    return st == FS_OK ? FS_EXIT_OK : st == FS_INVALID ? FS_EXIT_USAGE : FS_EXIT_FAILED;
}

int fs_cli_status(int argc, char **argv)
{
    status_options o = {0};
    return fs_cli_main(&spec, argc, argv, &o, run);
}
