/* common/base/conf_args.c: the command line: --name VALUE, --name=VALUE, -nVALUE, --no-name, and words. */
#include <string.h>

#include "base/conf_int.h"

/* The command line being read. */
typedef struct {
    const fs_conf_spec *spec;
    int argc, at;
    char **argv;
    fs_conf *conf; /* NULL: the first reading */
    fs_conf_request *request;
    fs_detail *detail;
} args_reader;

static uint32_t count_words(const char *text)
{
    uint32_t n = 0;
    if (!text) return 0;
    for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
        text += strcspn(text, " ");
        n++;
    }
    return n;
}

static bool is_name(const char *text, size_t len, const char *name)
{
    if (strlen(name) != len) return false;
    for (size_t i = 0; i < len; i++)
        if ((text[i] == '_' ? '-' : text[i]) != name[i]) return false;
    return true;
}

/* The value behind "=" or in the next word; NULL if there is none. */
static const char *take_value(args_reader *r, const char *inline_value)
{
    if (inline_value) return inline_value;
    return r->at < r->argc ? r->argv[r->at++] : NULL;
}

static fs_status set_option(args_reader *r, const fs_conf_option *option, const char *inline_value,
                            bool negated, const char *source)
{
    const char *value = inline_value;
    if (option->type == FS_CONF_BOOL && !value)
        value = negated ? "false" : "true";
    else
        value = take_value(r, inline_value);
    if (!value) return fs_fail(r->detail, FS_INVALID, "%s: needs a value", source);
    if (!r->conf) return FS_OK;
    return fs_conf_set(r->conf, option, value, source, r->detail);
}

/* The options that every program has. true: it was one of them; the status is in *st. */
static bool read_builtin(args_reader *r, const char *name, size_t len, const char *value, fs_status *st)
{
    bool *flag = is_name(name, len, "help")           ? &r->request->help
                 : is_name(name, len, "version")      ? &r->request->version
                 : is_name(name, len, "print-config") ? &r->request->print_config
                                                      : NULL;
    *st = FS_OK;
    if (flag && value) *st = fs_fail(r->detail, FS_INVALID, "--%.*s: takes no value", (int)len, name);
    if (flag) {
        *flag = true;
        return true;
    }
    if (!is_name(name, len, "config")) return false;
    r->request->config = take_value(r, value);
    if (!r->request->config) *st = fs_fail(r->detail, FS_INVALID, "--config: needs a value");
    return true;
}

static fs_status read_long(args_reader *r, const char *name)
{
    fs_status st;
    char source[80], hint[128];
    size_t len = strcspn(name, "=");
    const char *value = name[len] ? name + len + 1 : NULL;
    snprintf(source, sizeof source, "--%.*s", (int)(len < 70 ? len : 70), name);
    const fs_conf_option *option = fs_conf_find(r->spec, name, len);
    if (option) return set_option(r, option, value, false, source);
    if (read_builtin(r, name, len, value, &st)) return st;
    if (len > 3 && is_name(name, 3, "no-") && !value) {
        option = fs_conf_find(r->spec, name + 3, len - 3);
        if (option && option->type == FS_CONF_BOOL) return set_option(r, option, NULL, true, source);
    }
    fs_conf_suggest(r->spec, name, len, true, hint, sizeof hint);
    return fs_fail(r->detail, FS_INVALID, "unknown option '%s'%s", source, hint);
}

static const fs_conf_option *find_short(const fs_conf_spec *spec, char name)
{
    for (const fs_conf_option *o = spec->options; o->name; o++)
        if (o->short_name == name) return o;
    return NULL;
}

/* "-c FILE", "-cFILE", "-v"; bool options stand alone. */
static fs_status read_short(args_reader *r, const char *word)
{
    char source[3] = {'-', word[1], 0};
    const char *rest = word[2] ? word + 2 : NULL;
    const fs_conf_option *option = find_short(r->spec, word[1]);
    if (option && option->type == FS_CONF_BOOL && rest)
        return fs_fail(r->detail, FS_INVALID, "%s: takes no value", source);
    if (option) return set_option(r, option, rest, false, source);
    if (word[1] != 'h' || rest) return fs_fail(r->detail, FS_INVALID, "unknown option '%.70s'", word);
    r->request->help = true;
    return FS_OK;
}

fs_status fs_conf_read_args(const fs_conf_spec *spec, int argc, char **argv, fs_conf *conf,
                            fs_conf_request *request, const char **positional_out, fs_detail *detail)
{
    args_reader r = {spec, argc, 1, argv, conf, request, detail};
    uint32_t num_words = 0, wanted = count_words(spec->positional);
    bool only_words = false;
    while (r.at < argc) {
        const char *word = argv[r.at++];
        fs_status st = FS_OK;
        if (only_words || word[0] != '-' || !word[1]) {
            if (positional_out && num_words < wanted) positional_out[num_words] = word;
            num_words++;
        } else if (strcmp(word, "--") == 0) {
            only_words = true;
        } else {
            st = word[1] == '-' ? read_long(&r, word + 2) : read_short(&r, word);
        }
        if (st != FS_OK) return st;
    }
    if (request->help || request->version || num_words == wanted) return FS_OK;
    if (wanted == 0)
        return fs_fail(detail, FS_INVALID, "%s takes options only, but %u words were given", spec->program,
                       num_words);
    return fs_fail(detail, FS_INVALID, "%s needs %u words (%s), not %u", spec->program, wanted,
                   spec->positional, num_words);
}
