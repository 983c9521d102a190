/* common/base/conf_yaml.c: a YAML file of one level, "key: value". What a table cannot hold (lists, nested maps, anchors)
 * is refused with its line rather than half understood. */
#include <string.h>
#include <yaml.h>

#include "base/conf_int.h"

typedef struct {
    fs_conf *conf;
    const char *path;
    yaml_parser_t parser;
    bool *seen; /* [options] in this file */
    fs_detail *detail;
} yaml_reader;

static unsigned long line_of(yaml_mark_t mark)
{
    return (unsigned long)mark.line + 1;
}

/* The next event, owned by the caller on FS_OK. */
static fs_status next_event(yaml_reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event)) return FS_OK;
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR) return fs_fail(r->detail, FS_NO_MEMORY, "%s: no memory", r->path);
    unsigned long line = p->error == YAML_READER_ERROR ? line_of(p->mark) : line_of(p->problem_mark);
    return fs_fail(r->detail, FS_INVALID, "%s:%lu: %s", r->path, line, p->problem ? p->problem : "not YAML");
}

static bool is_plain_null(const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    if (event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return false;
    return !*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0;
}

static bool is_whole_text(const yaml_event_t *event)
{
    return strlen((const char *)event->data.scalar.value) == event->data.scalar.length; /* no 0 byte inside */
}

static fs_status read_value(yaml_reader *r, const fs_conf_option *option)
{
    yaml_event_t event;
    fs_status st = next_event(r, &event);
    if (st != FS_OK) return st;
    unsigned long line = line_of(event.start_mark);
    char source[FILENAME_MAX];
    snprintf(source, sizeof source, "%.300s:%lu: %s", r->path, line, option->name);
    if (event.type != YAML_SCALAR_EVENT || event.data.scalar.anchor || !is_whole_text(&event))
        st = fs_fail(r->detail, FS_INVALID, "%s: must be a single value", source);
    else if (is_plain_null(&event))
        st = fs_fail(r->detail, FS_INVALID, "%s: has no value", source);
    else
        st = fs_conf_set(r->conf, option, (const char *)event.data.scalar.value, source, r->detail);
    yaml_event_delete(&event);
    return st;
}

static fs_status find_key(yaml_reader *r, const yaml_event_t *event, const fs_conf_option **out)
{
    unsigned long line = line_of(event->start_mark);
    if (event->type != YAML_SCALAR_EVENT || event->data.scalar.anchor || !is_whole_text(event))
        return fs_fail(r->detail, FS_INVALID, "%s:%lu: a key must be one word", r->path, line);
    const char *key = (const char *)event->data.scalar.value;
    size_t len = event->data.scalar.length;
    const fs_conf_option *option = fs_conf_find(r->conf->spec, key, len);
    if (!option) {
        char hint[128];
        fs_conf_suggest(r->conf->spec, key, len, false, hint, sizeof hint);
        return fs_fail(r->detail, FS_INVALID, "%s:%lu: unknown key '%.64s'%s", r->path, line, key, hint);
    }
    bool *seen = &r->seen[option - r->conf->spec->options];
    if (*seen) return fs_fail(r->detail, FS_INVALID, "%s:%lu: duplicate key '%.64s'", r->path, line, key);
    *seen = true;
    *out = option;
    return FS_OK;
}

static fs_status read_mapping(yaml_reader *r)
{
    for (;;) {
        yaml_event_t event;
        const fs_conf_option *option = NULL;
        fs_status st = next_event(r, &event);
        if (st != FS_OK) return st;
        bool end = event.type == YAML_MAPPING_END_EVENT;
        if (!end) st = find_key(r, &event, &option);
        yaml_event_delete(&event);
        if (end || st != FS_OK) return st;
        st = read_value(r, option);
        if (st != FS_OK) return st;
    }
}

/* One document that is a map, or nothing at all. */
static fs_status read_stream(yaml_reader *r)
{
    for (bool had_document = false;;) {
        yaml_event_t event;
        fs_status st = next_event(r, &event);
        if (st != FS_OK) return st;
        yaml_event_type_t type = event.type;
        bool empty = type == YAML_SCALAR_EVENT && is_plain_null(&event);
        unsigned long line = line_of(event.start_mark);
        yaml_event_delete(&event);
        if (type == YAML_STREAM_END_EVENT) return FS_OK;
        if (type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_END_EVENT || empty) continue;
        if (type == YAML_MAPPING_START_EVENT)
            st = read_mapping(r);
        else if (type != YAML_DOCUMENT_START_EVENT)
            st = fs_fail(r->detail, FS_INVALID, "%s:%lu: must be a map of 'key: value' lines", r->path, line);
        else if (had_document)
            st = fs_fail(r->detail, FS_INVALID, "%s:%lu: a second document", r->path, line);
        if (st != FS_OK) return st;
        had_document = true;
    }
}

fs_status fs_conf_read_yaml(fs_conf *conf, const char *path, fs_detail *detail)
{
    fs_buffer text = {0};
    yaml_reader r = {.conf = conf, .path = path, .detail = detail};
    fs_status st = fs_file_read(path, FS_CONF_FILE_BYTES, &text, detail);
    if (st != FS_OK) return st;
    r.seen = fs_arena_calloc(&conf->arena, fs_conf_num_options(conf->spec) + 1, sizeof *r.seen);
    if (!r.seen || !yaml_parser_initialize(&r.parser)) {
        st = fs_fail(detail, FS_NO_MEMORY, "%s: no memory", path);
    } else {
        yaml_parser_set_input_string(&r.parser, text.data, text.size);
        st = read_stream(&r);
        yaml_parser_delete(&r.parser);
    }
    fs_buffer_free(&text);
    return st;
}
