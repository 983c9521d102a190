/* tools/cli/cluster.c: child processes: found, started, waited for, stopped. */
#include "cli/cluster.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/worker.h"

enum { KILLED_MS = 2000, TICK_MS = 50, MAX_ARGS = 96, LINE_BYTES = 512, PATH_BYTES = 4096 };

/* How long children of a kind may take after SIGTERM. A router lets requests run on for ROUTER_DRAIN, then ends them and waits a
 * second for the last messages: that has to fit. */
#define ROUTER_DRAIN "2s"
static const int64_t stop_ms[] = {
    [FS_CHILD_COORDINATOR] = 2000, [FS_CHILD_EXPERT] = 3000, [FS_CHILD_ROUTER] = 5000};

typedef struct {
    fs_child info;
    fs_cluster *cluster;
    uv_process_t process;
    uv_pipe_t out;
    bool spawned, told;
    char line[LINE_BYTES]; /* of its standard output, until the newline */
    size_t line_len;
    char chunk[1024];
} child;

struct fs_cluster {
    uv_loop_t *loop;
    fs_cluster_options options;
    uint32_t num_children, open_handles;
    uv_timer_t tick;
    char bin_dir[PATH_BYTES];
    char key_text[32 + 64 + 1]; /* FORESIGHT_CLUSTER_KEY=... */
    char **environment;
    char report[160];
    child children[FS_CLUSTER_MAX_CHILDREN];
};

/* A command line: words into one block, so that nothing is freed singly. */
typedef struct {
    char *word[MAX_ARGS + 1];
    uint32_t count;
    char text[8192];
    size_t used;
    bool overflow;
} command;

static void __attribute__((format(printf, 2, 3))) add_word(command *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(c->text + c->used, sizeof(c->text) - c->used, fmt, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof(c->text) - c->used || c->count == MAX_ARGS) {
        c->overflow = true;
        return;
    }
    c->word[c->count++] = c->text + c->used;
    c->word[c->count] = NULL;
    c->used += (size_t)len + 1;
}

static void add_option(command *c, const char *name, const char *value)
{
    if (!value) return;
    add_word(c, "--%s", name);
    add_word(c, "%s", value);
}

static void add_number(command *c, const char *name, uint32_t value)
{
    add_word(c, "--%s", name);
    add_word(c, "%u", value);
}

/* ---- what surrounds the children ---- */

static fs_status find_bin_dir(fs_cluster *cluster, fs_detail *detail)
{
    static const char *const places[] = {"", "/../libexec/foresight"};
    char self[PATH_BYTES / 2], program[PATH_BYTES];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (len <= 0) return fs_fail(detail, FS_IO, "/proc/self/exe: %s", strerror(errno));
    self[len] = '\0';
    *strrchr(self, '/') = '\0';
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        snprintf(cluster->bin_dir, sizeof(cluster->bin_dir), "%s%s", self, places[i]);
        if (snprintf(program, sizeof(program), "%s/foresight-expert", cluster->bin_dir) <
                (int)sizeof(program) &&
            access(program, X_OK) == 0)
            return FS_OK;
    }
    return fs_fail(detail, FS_NOT_FOUND, "foresight-expert is neither in %s nor in %s/../libexec/foresight",
                   self, self);
}

/* Kept by whoever named it: the next cluster there goes on with its placement. */
static fs_status make_runtime_dir(const fs_cluster *cluster, fs_detail *detail)
{
    const char *dir = cluster->options.runtime_dir;
    if (!dir || mkdir(dir, 0700) == 0 || errno == EEXIST) return FS_OK;
    return fs_fail(detail, FS_IO, "--runtime-dir: %s: %s", dir, strerror(errno));
}

/* Ours, without what would contradict the options that the children are given, and with the cluster's key: an environment can be
 * read by its owner alone, a command line by all. */
static fs_status make_environment(fs_cluster *cluster, fs_detail *detail)
{
    static const char *const taken_out[] = {
        "FORESIGHT_CLUSTER_KEY=", "FORESIGHT_CLUSTER_KEY_FILE=", "FORESIGHT_CONFIG=", "FORESIGHT_ADVERTISE="};
    uint8_t key[32];
    if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
        return fs_fail(detail, FS_IO, "no random numbers");
    int at = snprintf(cluster->key_text, sizeof(cluster->key_text), "FORESIGHT_CLUSTER_KEY=");
    for (size_t i = 0; i < sizeof(key); i++, at += 2)
        snprintf(cluster->key_text + at, sizeof(cluster->key_text) - (size_t)at, "%02x", key[i]);
    size_t count = 0, kept = 0;
    while (environ[count]) count++;
    cluster->environment = calloc(count + 2, sizeof(char *));
    if (!cluster->environment) return fs_fail(detail, FS_NO_MEMORY, "no memory for the environment");
    for (size_t i = 0; i < count; i++) {
        bool take = false;
        for (size_t t = 0; t < sizeof(taken_out) / sizeof(*taken_out); t++)
            take |= strncmp(environ[i], taken_out[t], strlen(taken_out[t])) == 0;
        if (!take) cluster->environment[kept++] = environ[i];
    }
    cluster->environment[kept++] = cluster->key_text;
    return FS_OK;
}

void fs_cluster_divide(uint32_t total, uint32_t routers, uint32_t nodes, uint32_t *router_threads,
                       uint32_t *node_threads)
{
    *router_threads = total / 2 / routers;
    *node_threads = total / 2 / nodes;
    if (*router_threads == 0) *router_threads = 1;
    if (*node_threads == 0) *node_threads = 1;
}

/* ---- a child's output and end ---- */

bool fs_cluster_parse_ready(const char *line, char value[128])
{
    if (strncmp(line, "ready ", 6) != 0) return false;
    const char *equals = strchr(line, '=');
    if (!equals || equals[1] == '\0' || strlen(equals + 1) >= 128) return false;
    memcpy(value, equals + 1, strlen(equals + 1) + 1);
    return true;
}

static void end_line(child *c)
{
    c->line[c->line_len] = '\0';
    c->line_len = 0;
    char address[sizeof(c->info.address)] = "";
    if (c->info.address[0] == '\0' && fs_cluster_parse_ready(c->line, address)) {
        memcpy(c->info.address, address, sizeof(address));
        return;
    }
    fprintf(stderr, "%s: %s\n", c->info.name, c->line);
}

static void on_output(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf)
{
    child *c = stream->data;
    if (size < 0) {
        uv_read_stop(stream);
        return;
    }
    for (ssize_t i = 0; i < size; i++) {
        if (buf->base[i] == '\n')
            end_line(c);
        else if (c->line_len < LINE_BYTES - 1)
            c->line[c->line_len++] = buf->base[i];
    }
}

static void give_chunk(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    child *c = handle->data;
    *buf = uv_buf_init(c->chunk, sizeof(c->chunk));
}

static void on_exit_of(uv_process_t *process, int64_t code, int signal)
{
    child *c = process->data;
    c->info.exited = true;
    c->info.exit_code = code;
    c->info.signal = signal;
}

static void on_closed(uv_handle_t *handle)
{
    child *c = handle->data;
    c->cluster->open_handles--;
}

static void on_tick_closed(uv_handle_t *handle)
{
    fs_cluster *cluster = handle->data;
    cluster->open_handles--;
}

static void on_tick(uv_timer_t *timer)
{
}

static const char *describe_end(const child *c, char *out, size_t size)
{
    if (c->info.signal)
        snprintf(out, size, "%s (pid %d) died: signal %d", c->info.name, c->info.pid, c->info.signal);
    else
        snprintf(out, size, "%s (pid %d) ended: exit status %" PRId64, c->info.name, c->info.pid,
                 c->info.exit_code);
    return out;
}

/* ---- starting ---- */

static fs_status spawn(fs_cluster *cluster, child *c, const command *cmd, fs_detail *detail)
{
    if (cmd->overflow) return fs_fail(detail, FS_INVALID, "%s: its command line is too long", c->info.name);
    FS_ASSERT(uv_pipe_init(cluster->loop, &c->out, 0) == 0);
    c->out.data = c->process.data = c;
    cluster->open_handles++;
    uv_stdio_container_t io[3] = {
        {.flags = UV_IGNORE},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->out},
        {.flags = UV_INHERIT_FD, .data.fd = 2},
    };
    /* Detached: Ctrl-C at the terminal reaches this process alone, which then stops the children in their order. */
    uv_process_options_t options = {.exit_cb = on_exit_of,
                                    .file = cmd->word[0],
                                    .args = (char **)cmd->word,
                                    .env = cluster->environment,
                                    .stdio = io,
                                    .stdio_count = 3,
                                    .flags = UV_PROCESS_DETACHED};
    int err = uv_spawn(cluster->loop, &c->process, &options);
    cluster->open_handles++; /* the handle is to be closed even if the spawn failed */
    c->spawned = true;
    if (err != 0) {
        c->info.exited = true;
        return fs_fail(detail, FS_IO, "%s: %s: %s", c->info.name, cmd->word[0], uv_strerror(err));
    }
    c->info.pid = c->process.pid;
    uv_read_start((uv_stream_t *)&c->out, give_chunk, on_output);
    return FS_OK;
}

/* Parted by spaces. */
static void add_words(command *cmd, const char *words)
{
    while (words && *words) {
        size_t size = strcspn(words, " ");
        if (size) add_word(cmd, "%.*s", (int)size, words);
        words += size + strspn(words + size, " ");
    }
}

static child *new_child(fs_cluster *cluster, fs_child_kind kind, uint32_t number)
{
    static const char *const names[] = {"coordinator", "expert", "router"};
    child *c = &cluster->children[cluster->num_children++];
    c->cluster = cluster;
    c->info.kind = kind;
    if (kind == FS_CHILD_COORDINATOR)
        snprintf(c->info.name, sizeof(c->info.name), "%s", names[kind]);
    else
        snprintf(c->info.name, sizeof(c->info.name), "%s-%u", names[kind], number);
    return c;
}

static void begin_command(const fs_cluster *cluster, const char *program, command *cmd)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    cmd->count = 0;
    cmd->used = 0;
    cmd->overflow = false;
    add_word(cmd, "%s/%s", cluster->bin_dir, program);
    /* With process 1 of a container its children die anyway, and they could not tell it from a parent that is gone. */
    if (getpid() != 1) add_word(cmd, "--die-with-parent");
    add_option(cmd, "log-level", levels[cluster->options.log_level]);
    add_option(cmd, "log-format", cluster->options.log_format == FS_LOG_JSON ? "json" : "logfmt");
}

static fs_status start_coordinator(fs_cluster *cluster, fs_detail *detail)
{
    command cmd;
    begin_command(cluster, "foresight-coordinator", &cmd);
    add_option(&cmd, "listen", "127.0.0.1:0");
    add_number(&cmd, "expert-nodes", cluster->options.expert_nodes);
    add_number(&cmd, "replicas", cluster->options.replicas);
    if (cluster->options.runtime_dir) {
        add_word(&cmd, "--data");
        add_word(&cmd, "%s/coordinator.db", cluster->options.runtime_dir);
    }
    return spawn(cluster, new_child(cluster, FS_CHILD_COORDINATOR, 0), &cmd, detail);
}

static fs_status start_member(fs_cluster *cluster, fs_child_kind kind, uint32_t number, uint32_t threads,
                              fs_detail *detail)
{
    command cmd;
    child *c = new_child(cluster, kind, number);
    begin_command(cluster, kind == FS_CHILD_EXPERT ? "foresight-expert" : "foresight-router", &cmd);
    bool given = kind == FS_CHILD_ROUTER && number == 1 && cluster->options.listen;
    add_option(&cmd, "listen", given ? cluster->options.listen : "127.0.0.1:0");
    add_option(&cmd, "model", cluster->options.model);
    add_option(&cmd, "coordinator", fs_cluster_coordinator(cluster));
    add_option(&cmd, "name", c->info.name);
    add_number(&cmd, "threads", threads);
    if (kind == FS_CHILD_ROUTER) add_option(&cmd, "drain", ROUTER_DRAIN);
    if (kind == FS_CHILD_ROUTER) add_option(&cmd, "trace", cluster->options.router_trace);
    add_words(&cmd, kind == FS_CHILD_ROUTER ? cluster->options.router_args : cluster->options.expert_args);
    return spawn(cluster, c, &cmd, detail);
}

static fs_status start_members(fs_cluster *cluster, fs_detail *detail)
{
    const fs_cluster_options *o = &cluster->options;
    uint32_t router_threads, node_threads;
    fs_status st = FS_OK;
    fs_cluster_divide(o->threads ? o->threads : fs_num_cpus(), o->routers, o->expert_nodes, &router_threads,
                      &node_threads);
    for (uint32_t i = 1; st == FS_OK && i <= o->expert_nodes; i++)
        st = start_member(cluster, FS_CHILD_EXPERT, i, node_threads, detail);
    for (uint32_t i = 1; st == FS_OK && i <= o->routers; i++)
        st = start_member(cluster, FS_CHILD_ROUTER, i, router_threads, detail);
    return st;
}

/* All children so far are ready: FS_OK; not yet: FS_EXHAUSTED. */
static fs_status look(fs_cluster *cluster, int64_t deadline_ns, const uint32_t *interrupted,
                      fs_detail *detail)
{
    char text[160];
    const child *late = NULL;
    for (uint32_t i = 0; i < cluster->num_children; i++) {
        const child *c = &cluster->children[i];
        if (c->info.exited)
            return fs_fail(detail, FS_UNAVAILABLE,
                           "%s before the cluster was ready; its own messages are above",
                           describe_end(c, text, sizeof(text)));
        if (c->info.address[0] == '\0' && !late) late = c;
    }
    if (!late) return FS_OK;
    if (*interrupted)
        return fs_fail(detail, FS_CANCELLED, "interrupted while %s was starting", late->info.name);
    if (fs_clock_now(fs_clock_system()) >= deadline_ns)
        return fs_fail(detail, FS_DEADLINE, "%s (pid %d) was not ready within %.0f s", late->info.name,
                       late->info.pid, (double)cluster->options.start_ns / FS_NS_PER_S);
    return FS_EXHAUSTED;
}

static fs_status wait_ready(fs_cluster *cluster, int64_t deadline_ns, const uint32_t *interrupted,
                            fs_detail *detail)
{
    fs_status st;
    while ((st = look(cluster, deadline_ns, interrupted, detail)) == FS_EXHAUSTED)
        uv_run(cluster->loop, UV_RUN_ONCE);
    return st;
}

static fs_status check_options(const fs_cluster_options *o, fs_detail *detail)
{
    char path[PATH_BYTES];
    if (!o->model || o->model[0] == '\0')
        return fs_fail(detail, FS_INVALID, "--model: no model directory given");
    if (o->replicas > o->expert_nodes)
        return fs_fail(detail, FS_INVALID,
                       "--replicas: %u replicas need as many expert nodes, --expert-nodes is %u", o->replicas,
                       o->expert_nodes);
    if (snprintf(path, sizeof(path), "%s/config.json", o->model) >= (int)sizeof(path))
        return fs_fail(detail, FS_INVALID, "--model: the path is too long");
    if (access(path, R_OK) != 0)
        return fs_fail(detail, errno == ENOENT || errno == ENOTDIR ? FS_NOT_FOUND : FS_IO, "--model: %s: %s",
                       path, strerror(errno));
    return FS_OK;
}

fs_status fs_cluster_start(uv_loop_t *loop, const fs_cluster_options *options, const uint32_t *interrupted,
                           fs_cluster **out, fs_detail *detail)
{
    fs_status st = check_options(options, detail);
    if (st != FS_OK) return st;
    fs_cluster *cluster = calloc(1, sizeof(*cluster));
    if (!cluster) return fs_fail(detail, FS_NO_MEMORY, "no memory for a cluster");
    cluster->loop = loop;
    cluster->options = *options;
    FS_ASSERT(uv_timer_init(loop, &cluster->tick) == 0);
    cluster->tick.data = cluster;
    cluster->open_handles++;
    uv_timer_start(&cluster->tick, on_tick, TICK_MS, TICK_MS); /* so that waits can look at the clock */
    int64_t deadline_ns = fs_clock_now(fs_clock_system()) + options->start_ns;
    st = find_bin_dir(cluster, detail);
    if (st == FS_OK) st = make_runtime_dir(cluster, detail);
    if (st == FS_OK) st = make_environment(cluster, detail);
    if (st == FS_OK) st = start_coordinator(cluster, detail);
    if (st == FS_OK) st = wait_ready(cluster, deadline_ns, interrupted, detail);
    if (st == FS_OK) st = start_members(cluster, detail);
    if (st == FS_OK) st = wait_ready(cluster, deadline_ns, interrupted, detail);
    if (cluster->num_children == 0)
        fs_cluster_stop(cluster);
    else
        *out = cluster;
    return st;
}

/* ---- stopping ---- */

static bool any_lives(const fs_cluster *cluster, int kind)
{
    for (uint32_t i = 0; i < cluster->num_children; i++) {
        const child *c = &cluster->children[i];
        if (c->spawned && !c->info.exited && (kind < 0 || (int)c->info.kind == kind)) return true;
    }
    return false;
}

static void signal_all(fs_cluster *cluster, int kind, int signal)
{
    for (uint32_t i = 0; i < cluster->num_children; i++) {
        child *c = &cluster->children[i];
        if (c->spawned && !c->info.exited && (kind < 0 || (int)c->info.kind == kind))
            uv_process_kill(&c->process, signal);
    }
}

static void wait_gone(fs_cluster *cluster, int kind, int64_t deadline_ns)
{
    while (any_lives(cluster, kind) && fs_clock_now(fs_clock_system()) < deadline_ns)
        uv_run(cluster->loop, UV_RUN_ONCE);
}

/* Kinds have their times one after the other: a router that takes all of its own costs the rest nothing. */
static void stop_children(fs_cluster *cluster)
{
    static const int order[] = {FS_CHILD_ROUTER, FS_CHILD_EXPERT, FS_CHILD_COORDINATOR};
    char text[160];
    for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++) {
        signal_all(cluster, order[i], SIGTERM);
        wait_gone(cluster, order[i], fs_clock_now(fs_clock_system()) + stop_ms[order[i]] * FS_NS_PER_MS);
    }
    for (uint32_t i = 0; i < cluster->num_children; i++) {
        const child *c = &cluster->children[i];
        if (c->spawned && !c->info.exited)
            fprintf(stderr, "%s (pid %d) did not stop within %d s and is killed\n", c->info.name, c->info.pid,
                    (int)(stop_ms[c->info.kind] / 1000));
        else if (c->spawned && (c->info.signal || c->info.exit_code) && !c->told &&
                 c->info.address[0] != '\0')
            fprintf(stderr, "%s\n", describe_end(c, text, sizeof(text)));
    }
    signal_all(cluster, -1, SIGKILL);
    wait_gone(cluster, -1, fs_clock_now(fs_clock_system()) + KILLED_MS * FS_NS_PER_MS);
}

void fs_cluster_stop(fs_cluster *cluster)
{
    if (!cluster) return;
    stop_children(cluster);
    for (uint32_t i = 0; i < cluster->num_children; i++) {
        child *c = &cluster->children[i];
        if (!c->spawned) continue;
        uv_close((uv_handle_t *)&c->process, on_closed);
        uv_close((uv_handle_t *)&c->out, on_closed);
    }
    uv_close((uv_handle_t *)&cluster->tick, on_tick_closed);
    while (cluster->open_handles > 0) uv_run(cluster->loop, UV_RUN_ONCE);
    free(cluster->environment);
    free(cluster);
}

/* ---- looking ---- */

uint32_t fs_cluster_size(const fs_cluster *cluster)
{
    return cluster->num_children;
}

const fs_child *fs_cluster_child(const fs_cluster *cluster, uint32_t index)
{
    FS_ASSERT(index < cluster->num_children);
    return &cluster->children[index].info;
}

const char *fs_cluster_coordinator(const fs_cluster *cluster)
{
    return cluster->children[0].info.address;
}

uint32_t fs_cluster_alive(const fs_cluster *cluster, fs_child_kind kind)
{
    uint32_t alive = 0;
    for (uint32_t i = 0; i < cluster->num_children; i++)
        alive += cluster->children[i].info.kind == kind && !cluster->children[i].info.exited;
    return alive;
}

const char *fs_cluster_next_death(fs_cluster *cluster)
{
    for (uint32_t i = 0; i < cluster->num_children; i++) {
        child *c = &cluster->children[i];
        if (!c->info.exited || c->told) continue;
        c->told = true;
        return describe_end(c, cluster->report, sizeof(cluster->report));
    }
    return NULL;
}
