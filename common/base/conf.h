/* common/base/conf.h: a process's configuration: one table of options that reads a YAML file, the environment and flags,
 * and that also makes --help and --print-config. Later sources win: default, file, environment, flag. */
#ifndef FS_BASE_CONF_H
#define FS_BASE_CONF_H

#include <stdio.h>

#include "base/status.h"

typedef enum {
    FS_CONF_BOOL, /* bool:     true|false|yes|no|on|off; a flag alone means true, --no-NAME false */
    FS_CONF_U32,  /* uint32_t: decimal within [min, max] */
    FS_CONF_BYTES, /* uint64_t: decimal with an optional KiB, MiB, GiB, TiB (or K, M, G, T) within [min, max] */
    FS_CONF_DURATION, /* int64_t nanoseconds: 250us, 10ms, 1.5s, 2m, 1h, within [min, max] */
    FS_CONF_FLOAT,    /* double, finite, within [fmin, fmax] */
    FS_CONF_STRING,   /* const char *, into the configuration's own memory; may be NULL by default */
    FS_CONF_ENUM,     /* uint32_t: index into words, "a|b|c" */
} fs_conf_type;

/* One option. name: "listen" or "kv-cache-bytes"; it is --kv-cache-bytes, FORESIGHT_KV_CACHE_BYTES and the YAML key
 * kv_cache_bytes (one level; '-' and '_' are the same). A zero name ends the table. */
typedef struct {
    const char *name;
    fs_conf_type type;
    size_t offset; /* of the field in the caller's struct */
    const char
        *default_text; /* parsed like a value from outside; NULL: the field keeps zero (a string: NULL) */
    const char *help;  /* one sentence */
    const char *value_name; /* "ADDR", "N"; NULL: from the type */
    uint64_t min, max;      /* both 0: no limit */
    double fmin, fmax;      /* both 0: no limit */
    const char *words;      /* FS_CONF_ENUM */
    bool required;          /* there is no default and the process cannot run without it */
    bool secret;            /* --print-config writes *** */
    char short_name;        /* 'c' for -c; 0: none */
} fs_conf_option;

/* What a program is: for --help. positional: "IN OUT" or NULL; as many words must be given. */
typedef struct {
    const char *program, *summary, *positional;
    const fs_conf_option *options;
} fs_conf_spec;

typedef enum {
    FS_CONF_RUN,  /* go on */
    FS_CONF_EXIT, /* --help, --version or --print-config was printed to out: exit 0 */
} fs_conf_outcome;

typedef struct fs_conf fs_conf; /* owns the strings that the caller's struct points to */

/* Fills target. --config FILE (or FORESIGHT_CONFIG) names the YAML file. argv[0] is skipped; environment: NAME=VALUE
 * strings ending with NULL (environ). positional_out: receives as many words as spec->positional has; may be NULL.
 * FS_INVALID: unknown key, bad value, duplicate key, missing required option, wrong number of words; FS_NOT_FOUND, FS_IO: the
 * file. The detail says where: "foresight.yaml:3: unknown key 'lissten' (did you mean 'listen'?)", "--threads: ...",
 * "FORESIGHT_THREADS: ...". Unknown FORESIGHT_* variables are ignored (several programs share the environment). */
FS_MUST_USE fs_status fs_conf_load(const fs_conf_spec *spec, int argc, char **argv, char **environment,
                                   void *target, const char **positional_out, fs_conf **out,
                                   fs_conf_outcome *outcome, FILE *print_to, fs_detail *detail);
void fs_conf_destroy(fs_conf *conf);

/* Parses one value as the table would, into field (of the option's type). For tests and for `foresight` subcommands. */
FS_MUST_USE fs_status fs_conf_parse_value(const fs_conf_option *option, const char *text, void *field,
                                          fs_detail *detail);

/* The options that every process has (level and format of the log), to be spread into a table:
 *   static const fs_conf_option options[] = { FS_CONF_COMMON(my_conf, common), {"listen", ...}, {0} };  */
typedef struct {
    uint32_t log_level, log_format; /* fs_log_level, fs_log_format */
} fs_conf_common;
#define FS_CONF_COMMON(conf_type, field)                                                                          \
    {.name = "log-level",                                                                                    \
     .type = FS_CONF_ENUM,                                                                                   \
     .offset = offsetof(conf_type, field.log_level),                                                              \
     .default_text = "info",                                                                                 \
     .words = "error|warn|info|debug",                                                                       \
     .help = "How much is logged to standard error."},                                                       \
    {                                                                                                        \
        .name = "log-format", .type = FS_CONF_ENUM, .offset = offsetof(conf_type, field.log_format),              \
        .default_text = "logfmt", .words = "logfmt|json", .help = "How a log line is written."               \
    }

#endif
