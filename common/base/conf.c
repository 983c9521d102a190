/* common/base/conf.c: the sources of a configuration in their order, and the names of its options. */
#include "base/conf.h"

#include <stdlib.h>
#include <string.h>

#include "base/conf_int.h"

size_t fs_conf_num_options(const fs_conf_spec *spec)
{
    size_t n = 0;
    while (spec->options[n].name) n++;
    return n;
}

static char plain(char c)
{
    return c == '_' ? '-' : c;
}

const fs_conf_option *fs_conf_find(const fs_conf_spec *spec, const char *name, size_t len)
{
    for (const fs_conf_option *o = spec->options; o->name; o++) {
        if (strlen(o->name) != len) continue;
        size_t i = 0;
        while (i < len && plain(o->name[i]) == plain(name[i])) i++;
        if (i == len) return o;
    }
    return NULL;
}

/* Edits (insert, delete, replace, swap neighbours) from a to b; names longer than 63 bytes are far from all. */
static uint32_t distance(const char *a, size_t a_len, const char *b)
{
    uint32_t row[3][64], b_len = (uint32_t)strlen(b);
    if (a_len > 63 || b_len > 63) return UINT32_MAX;
    for (uint32_t j = 0; j <= b_len; j++) row[0][j] = j;
    for (uint32_t i = 1; i <= a_len; i++) {
        uint32_t *now = row[i % 3], *above = row[(i + 2) % 3], *above2 = row[(i + 1) % 3];
        now[0] = i;
        for (uint32_t j = 1; j <= b_len; j++) {
            bool same = plain(a[i - 1]) == plain(b[j - 1]);
            uint32_t least = above[j - 1] + !same;
            if (above[j] + 1 < least) least = above[j] + 1;
            if (now[j - 1] + 1 < least) least = now[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && plain(a[i - 1]) == plain(b[j - 2]) &&
                           plain(a[i - 2]) == plain(b[j - 1]);
            if (swapped && above2[j - 2] + 1 < least) least = above2[j - 2] + 1;
            now[j] = least;
        }
    }
    return row[a_len % 3][b_len];
}

void fs_conf_suggest(const fs_conf_spec *spec, const char *name, size_t len, bool flags, char *out,
                     size_t out_size)
{
    static const char *const builtin[] = {"config", "print-config", "help", "version"};
    const char *nearest = NULL;
    uint32_t least = len < 3 ? 1 : (uint32_t)(len / 3 < 3 ? len / 3 : 3), d;
    for (const fs_conf_option *o = spec->options; o->name; o++) {
        d = distance(name, len, o->name);
        if (d > least || (nearest && d == least)) continue;
        nearest = o->name;
        least = d;
    }
    for (size_t i = 0; flags && i < sizeof builtin / sizeof *builtin; i++) {
        d = distance(name, len, builtin[i]);
        if (d > least || (nearest && d == least)) continue;
        nearest = builtin[i];
        least = d;
    }
    if (nearest)
        snprintf(out, out_size, " (did you mean '%s%s'?)", flags ? "--" : "", nearest);
    else
        out[0] = 0;
}

fs_status fs_conf_set(fs_conf *conf, const fs_conf_option *option, const char *text, const char *source,
                      fs_detail *detail)
{
    if (option->type == FS_CONF_STRING) text = fs_arena_strndup(&conf->arena, text, strlen(text));
    if (!text) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", source);
    fs_detail reason = {{0}};
    fs_status st = fs_conf_parse_value(option, text, fs_conf_field(conf, option), &reason);
    if (st != FS_OK) return fs_fail(detail, st, "%s: %s", source, reason.text);
    conf->is_set[option - conf->spec->options] = true;
    return FS_OK;
}

static void clear_field(const fs_conf *conf, const fs_conf_option *option)
{
    void *field = fs_conf_field(conf, option);
    switch (option->type) {
    case FS_CONF_BOOL: *(bool *)field = false; break;
    case FS_CONF_U32:
    case FS_CONF_ENUM: *(uint32_t *)field = 0; break;
    case FS_CONF_BYTES: *(uint64_t *)field = 0; break;
    case FS_CONF_DURATION: *(int64_t *)field = 0; break;
    case FS_CONF_FLOAT: *(double *)field = 0; break;
    case FS_CONF_STRING: *(const char **)field = NULL; break;
    }
}

static fs_status set_defaults(fs_conf *conf, fs_detail *detail)
{
    char source[96];
    for (const fs_conf_option *o = conf->spec->options; o->name; o++) {
        clear_field(conf, o);
        if (!o->default_text) continue;
        snprintf(source, sizeof source, "default of --%s", o->name);
        fs_status st = fs_conf_set(conf, o, o->default_text, source, detail);
        if (st != FS_OK) return st == FS_INVALID ? FS_INTERNAL : st; /* the table is ours */
    }
    return FS_OK;
}

static const char *variable(char **environment, const char *name)
{
    size_t len = strlen(name);
    for (; environment && *environment; environment++)
        if (strncmp(*environment, name, len) == 0 && (*environment)[len] == '=')
            return *environment + len + 1;
    return NULL;
}

static fs_status read_environment(fs_conf *conf, char **environment, fs_detail *detail)
{
    char name[96];
    for (const fs_conf_option *o = conf->spec->options; o->name; o++) {
        fs_conf_variable_name(o->name, name, sizeof name);
        const char *text = variable(environment, name);
        fs_status st = text ? fs_conf_set(conf, o, text, name, detail) : FS_OK;
        if (st != FS_OK) return st;
    }
    return FS_OK;
}

static fs_status check_required(const fs_conf *conf, fs_detail *detail)
{
    char name[96];
    for (const fs_conf_option *o = conf->spec->options; o->name; o++) {
        if (!o->required || conf->is_set[o - conf->spec->options]) continue;
        fs_conf_variable_name(o->name, name, sizeof name);
        return fs_fail(detail, FS_INVALID, "--%s: is required (or %s, or a line of the configuration file)",
                       o->name, name);
    }
    return FS_OK;
}

static fs_status conf_create(const fs_conf_spec *spec, void *target, fs_conf **out)
{
    fs_conf *conf = calloc(1, sizeof *conf);
    if (!conf) return FS_NO_MEMORY;
    *conf = (fs_conf){.spec = spec, .target = target, .arena = {.block_bytes = 4096}};
    conf->is_set = fs_arena_calloc(&conf->arena, fs_conf_num_options(spec) + 1, sizeof *conf->is_set);
    if (!conf->is_set) {
        fs_conf_destroy(conf);
        return FS_NO_MEMORY;
    }
    *out = conf;
    return FS_OK;
}

static fs_status read_sources(fs_conf *conf, int argc, char **argv, char **environment,
                              fs_conf_request *request, const char **positional_out, fs_detail *detail)
{
    const char *path = request->config ? request->config : variable(environment, "FORESIGHT_CONFIG");
    fs_status st = set_defaults(conf, detail);
    if (st == FS_OK && path && (*path || request->config)) st = fs_conf_read_yaml(conf, path, detail);
    if (st == FS_OK) st = read_environment(conf, environment, detail);
    if (st == FS_OK) st = fs_conf_read_args(conf->spec, argc, argv, conf, request, positional_out, detail);
    if (st == FS_OK) st = check_required(conf, detail);
    return st;
}

/* Answers what needs no values. */
static bool print_request(const fs_conf_spec *spec, const fs_conf_request *request, FILE *out)
{
    if (request->help)
        fs_conf_print_help(spec, out);
    else if (request->version)
        fprintf(out, "%s %s\n", spec->program, FS_VERSION);
    return request->help || request->version;
}

fs_status fs_conf_load(const fs_conf_spec *spec, int argc, char **argv, char **environment, void *target,
                       const char **positional_out, fs_conf **out, fs_conf_outcome *outcome, FILE *print_to,
                       fs_detail *detail)
{
    fs_conf *conf = NULL;
    fs_conf_request request = {0};
    fs_status st = fs_conf_read_args(spec, argc, argv, NULL, &request, NULL, detail);
    if (st != FS_OK && !request.help) return st;
    if (print_request(spec, &request, print_to)) {
        *out = NULL;
        *outcome = FS_CONF_EXIT;
        return FS_OK;
    }
    st = conf_create(spec, target, &conf);
    if (st != FS_OK) return fs_fail(detail, st, "%s: no memory", spec->program);
    st = read_sources(conf, argc, argv, environment, &request, positional_out, detail);
    if (st == FS_OK && request.print_config) fs_conf_print_values(conf, print_to);
    if (st != FS_OK || request.print_config) { /* nothing may point into what is freed here */
        for (const fs_conf_option *o = spec->options; o->name; o++) clear_field(conf, o);
        fs_conf_destroy(conf);
        conf = NULL;
    }
    if (st != FS_OK) return st;
    *out = conf;
    *outcome = request.print_config ? FS_CONF_EXIT : FS_CONF_RUN;
    return FS_OK;
}

void fs_conf_destroy(fs_conf *conf)
{
    if (!conf) return;
    fs_arena_fini(&conf->arena);
    free(conf);
}
