/* common/base/conf_int.h: what the parts of the configuration share: the table, its sources, values as text. */
#ifndef FS_BASE_CONF_INT_H
#define FS_BASE_CONF_INT_H

#include "base/arena.h"
#include "base/buffer.h"
#include "base/conf.h"

enum { FS_CONF_FILE_BYTES = 1 << 20 };

struct fs_conf {
    const fs_conf_spec *spec;
    void *target;
    bool *is_set;   /* [options] by a default or any source */
    fs_arena arena; /* the strings, and is_set */
};

/* What the command line asks for, beside options. */
typedef struct {
    const char *config; /* --config FILE; NULL: not given */
    bool help, version, print_config;
} fs_conf_request;

size_t fs_conf_num_options(const fs_conf_spec *spec);

/* The option of that name ('-' and '_' the same, len bytes), or NULL. */
const fs_conf_option *fs_conf_find(const fs_conf_spec *spec, const char *name, size_t len);

/* " (did you mean 'listen'?)" for the nearest option, or "". flags: options of the command line that every program has are
 * candidates too. */
void fs_conf_suggest(const fs_conf_spec *spec, const char *name, size_t len, bool flags, char *out,
                     size_t out_size);

/* Parses text into the option's field and marks it as set. source: what the detail names, as "--threads". */
fs_status fs_conf_set(fs_conf *conf, const fs_conf_option *option, const char *text, const char *source,
                      fs_detail *detail);

/* The sources. conf_args.c reads the command line twice: first what it asks for (conf NULL: options are only checked to
 * exist), then, after file and environment, its options. */
fs_status fs_conf_read_args(const fs_conf_spec *spec, int argc, char **argv, fs_conf *conf,
                            fs_conf_request *request, const char **positional_out, fs_detail *detail);
fs_status fs_conf_read_yaml(fs_conf *conf, const char *path, fs_detail *detail);

/* Appends the field as its parser would read it. */
void fs_conf_format_value(const fs_conf_option *option, const void *field, fs_buffer *out);

void fs_conf_print_help(const fs_conf_spec *spec, FILE *out);
void fs_conf_print_values(const fs_conf *conf, FILE *out);

/* The environment variable of an option: FORESIGHT_KV_CACHE_BYTES. */
void fs_conf_variable_name(const char *option, char *out, size_t out_size);

static inline void *fs_conf_field(const fs_conf *conf, const fs_conf_option *option)
{
    return (char *)conf->target + option->offset;
}

#endif
