/* common/base/conf_help.c: --help and --print-config, made from the same table that is parsed. */
#include <ctype.h>
#include <string.h>

#include "base/conf_int.h"

enum { HELP_COLUMN = 34, LINE_COLUMNS = 110 };

void fs_conf_variable_name(const char *option, char *out, size_t out_size)
{
    snprintf(out, out_size, "FORESIGHT_%s", option);
    for (char *p = out; *p; p++) *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}

static const char *value_name(const fs_conf_option *option)
{
    if (option->value_name) return option->value_name;
    switch (option->type) {
    case FS_CONF_BOOL: return NULL;
    case FS_CONF_U32: return "N";
    case FS_CONF_BYTES: return "BYTES";
    case FS_CONF_DURATION: return "TIME";
    case FS_CONF_FLOAT: return "X";
    case FS_CONF_ENUM: return option->words;
    case FS_CONF_STRING: return "TEXT";
    }
    return NULL;
}

/* Prints words from the help column on, broken at spaces. left: the columns already used. */
static void print_wrapped(const char *text, int left, FILE *out)
{
    int column = left;
    if (column >= HELP_COLUMN) {
        fputc('\n', out);
        column = 0;
    }
    fprintf(out, "%*s", HELP_COLUMN - column, "");
    column = HELP_COLUMN;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + n > LINE_COLUMNS) {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        column += fprintf(out, "%s%.*s", column > HELP_COLUMN ? " " : "", n, text);
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void print_option(const fs_conf_option *option, FILE *out)
{
    fs_buffer text = {0};
    const char *value = value_name(option);
    char short_name[] = {'-', option->short_name, ',', ' ', 0};
    int left = fprintf(out, "  %s--%s%s%s", option->short_name ? short_name : "    ", option->name,
                       value ? " " : "", value ? value : "");
    fs_buffer_printf(&text, "%s", option->help ? option->help : "");
    if (option->default_text) fs_buffer_printf(&text, " [%s]", option->default_text);
    if (option->required) fs_buffer_printf(&text, " (required)");
    if (!text.failed) print_wrapped((const char *)text.data, left + 2, out);
    fs_buffer_free(&text);
}

void fs_conf_print_help(const fs_conf_spec *spec, FILE *out)
{
    static const fs_conf_option builtin[] = {
        {.name = "config",
         .type = FS_CONF_STRING,
         .value_name = "FILE",
         .help = "YAML file of options, as 'key: value'."},
        {.name = "print-config",
         .type = FS_CONF_BOOL,
         .help = "Print the options in effect as YAML and exit."},
        {.name = "help", .type = FS_CONF_BOOL, .short_name = 'h', .help = "Print this and exit."},
        {.name = "version", .type = FS_CONF_BOOL, .help = "Print the version and exit."},
        {0},
    };
    fprintf(out, "Usage: %s [options]%s%s\n\n%s\n\nOptions:\n", spec->program, spec->positional ? " " : "",
            spec->positional ? spec->positional : "", spec->summary ? spec->summary : "");
    for (const fs_conf_option *o = spec->options; o->name; o++) print_option(o, out);
    for (const fs_conf_option *o = builtin; o->name; o++) print_option(o, out);
    fprintf(out, "\nLater sources win: default, file, environment (--kv-cache-bytes is "
                 "FORESIGHT_KV_CACHE_BYTES), option.\n");
}

static void print_key(const char *name, FILE *out)
{
    for (; *name; name++) fputc(*name == '-' ? '_' : *name, out);
}

void fs_conf_print_values(const fs_conf *conf, FILE *out)
{
    for (const fs_conf_option *o = conf->spec->options; o->name; o++) {
        const void *field = fs_conf_field(conf, o);
        bool is_set = conf->is_set[o - conf->spec->options];
        fs_buffer text = {0};
        if (is_set && !o->secret) fs_conf_format_value(o, field, &text);
        fprintf(out, "%s", is_set ? "" : "# "); /* what is not set has no value that could be read back */
        print_key(o->name, out);
        fprintf(out, ":%s%.*s\n", is_set ? " " : "", is_set && o->secret ? 5 : (int)text.size,
                is_set && o->secret ? "\"***\""
                : text.data         ? (char *)text.data
                                    : "");
        fs_buffer_free(&text);
    }
}
