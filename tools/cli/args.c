/* tools/cli/args.c: what the subcommands' options have in common. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

int fs_cli_parse(const fs_conf_spec *spec, int argc, char **argv, void *target, const char **positional,
                 fs_conf **conf)
{
    fs_detail detail = {0};
    fs_conf_outcome outcome;
    fs_status st = fs_conf_load(spec, argc, argv, environ, target, positional, conf, &outcome, stdout,
                                &detail);
    if (st != FS_OK) {
        fprintf(stderr, "%s: %s\n(%s --help lists the options)\n", spec->program, detail.text, spec->program);
        return FS_EXIT_USAGE;
    }
    if (outcome == FS_CONF_RUN) return FS_CLI_GO_ON;
    fs_conf_destroy(*conf);
    *conf = NULL;
    return FS_EXIT_OK;
}

/* The value of "--NAME VALUE" or "--NAME=VALUE" at argv[i], or NULL; *used words. missing: there is no VALUE. */
static const char *repeated_at(const char *name, int argc, char **argv, int i, int *used, bool *missing)
{
    size_t len = strlen(name);
    if (strncmp(argv[i], "--", 2) != 0 || strncmp(argv[i] + 2, name, len) != 0) return NULL;
    const char *rest = argv[i] + 2 + len;
    if (*rest == '=') {
        *used = 1;
        return rest + 1;
    }
    if (*rest != '\0') return NULL;
    *missing = i + 1 >= argc;
    *used = 2;
    return *missing ? NULL : argv[i + 1];
}

fs_status fs_cli_take_repeated(const char *name, int *argc, char **argv, const char **values, uint32_t max,
                               uint32_t *count, fs_detail *detail)
{
    int kept = 0;
    bool literal = false;
    *count = 0;
    for (int i = 0, used; i < *argc; i += used) {
        bool missing = false;
        literal |= strcmp(argv[i], "--") == 0;
        const char *value = i > 0 && !literal ? repeated_at(name, *argc, argv, i, &used, &missing) : NULL;
        if (missing) return fs_fail(detail, FS_INVALID, "--%s: needs a value", name);
        if (!value) {
            argv[kept++] = argv[i];
            used = 1;
            continue;
        }
        if (*count == max) return fs_fail(detail, FS_INVALID, "--%s: given more than %u times", name, max);
        values[(*count)++] = value;
    }
    *argc = kept;
    argv[kept] = NULL;
    return FS_OK;
}

fs_status fs_cli_parse_list(const char *name, const char *text, uint32_t min_value, uint32_t max_value,
                            uint32_t *values, uint32_t max, uint32_t *count, fs_detail *detail)
{
    uint32_t n = 0;
    for (const char *at = text;;) {
        char *end;
        unsigned long value = *at >= '0' && *at <= '9' ? strtoul(at, &end, 10) : ULONG_MAX;
        if (value < min_value || value > max_value || (*end != ',' && *end != '\0'))
            return fs_fail(detail, FS_INVALID,
                           "--%s: '%.80s' is not a list of numbers from %u to %u, such as 1,2,3", name, text,
                           min_value, max_value);
        if (n == max) return fs_fail(detail, FS_INVALID, "--%s: more than %u numbers", name, max);
        values[n++] = (uint32_t)value;
        if (*end == '\0') break;
        at = end + 1;
    }
    *count = n;
    return FS_OK;
}

fs_status fs_cli_optional_float(const char *name, const char *text, float *value, bool *set,
                                fs_detail *detail)
{
    if (!text) return FS_OK;
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite((float)v))
        return fs_fail(detail, FS_INVALID, "--%s: '%.80s' is not a finite number", name, text);
    *value = (float)v;
    *set = true;
    return FS_OK;
}

fs_status fs_cli_optional_u64(const char *name, const char *text, uint64_t max, uint64_t *value, bool *set,
                              fs_detail *detail)
{
    if (!text) return FS_OK;
    const fs_conf_option option = {.name = name, .type = FS_CONF_BYTES, .max = max};
    size_t digits = strspn(text, "0123456789");
    fs_detail reason = {0};
    if (digits == 0 || text[digits] != '\0')
        return fs_fail(detail, FS_INVALID, "--%s: '%.80s' is not a whole number", name, text);
    fs_status st = fs_conf_parse_value(&option, text, value, &reason);
    if (st != FS_OK) return fs_fail(detail, st, "--%s: %s", name, reason.text);
    *set = true;
    return FS_OK;
}
