/* common/base/log.c: one line an event. The format is walked conversion by conversion, so that each value is known apart
 * from the text around it: what comes from outside is escaped and can never become another field or line. */
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log_int.h"

enum {
    LINE_BYTES = 4096, /* PIPE_BUF: lines of several processes never mix in one pipe */
    VALUE_BYTES = 2048,
    TAIL_BYTES = 8, /* kept free for the end of a cut line */
};

static struct {
    fs_log_level level;
    fs_log_format format;
    char process[32], name[128];
} state = {FS_LOG_INFO, FS_LOG_LOGFMT, "", ""};

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void fs_log_init(fs_log_level level, fs_log_format format, const char *process, const char *name)
{
    state.level = level;
    state.format = format;
    snprintf(state.process, sizeof state.process, "%s", process);
    snprintf(state.name, sizeof state.name, "%s", name);
}

fs_status fs_log_parse_level(const char *word, fs_log_level *out)
{
    for (int i = FS_LOG_ERROR; i <= FS_LOG_DEBUG; i++) {
        if (strcmp(word, level_names[i]) != 0) continue;
        *out = (fs_log_level)i;
        return FS_OK;
    }
    if (strcmp(word, "off") != 0) return FS_INVALID;
    *out = FS_LOG_OFF;
    return FS_OK;
}

fs_status fs_log_parse_format(const char *word, fs_log_format *out)
{
    bool json = strcmp(word, "json") == 0;
    if (!json && strcmp(word, "logfmt") != 0) return FS_INVALID;
    *out = json ? FS_LOG_JSON : FS_LOG_LOGFMT;
    return FS_OK;
}

bool fs_log_enabled(fs_log_level level)
{
    return level >= FS_LOG_ERROR && level <= state.level;
}

/* A line being built. Text that does not fit is left out; `cut` then ends the line early, but well-formed. */
typedef struct {
    char text[LINE_BYTES];
    size_t size;
    bool cut;
} log_line;

static bool put(log_line *line, const char *text, size_t size)
{
    if (line->cut || line->size + size > LINE_BYTES - TAIL_BYTES) {
        line->cut = true;
        return false;
    }
    memcpy(line->text + line->size, text, size);
    line->size += size;
    return true;
}

static void put_tail(log_line *line, const char *text)
{
    size_t size = strlen(text);
    if (size > LINE_BYTES - line->size) return;
    memcpy(line->text + line->size, text, size);
    line->size += size;
}

/* Puts the value between quotes, escaped as JSON does it (which logfmt readers understand too). */
static void put_quoted(log_line *line, const char *value)
{
    if (!put(line, "\"", 1)) return;
    char piece[16];
    for (const char *p = value; *p && !line->cut;) {
        size_t used, size = fs_log_escape(p, piece, &used);
        put(line, piece, size);
        p += used;
    }
    put_tail(line, line->cut ? "...\"" : "\"");
}

static void put_field(log_line *line, const char *key, size_t key_size, const char *value, bool is_number)
{
    bool json = state.format == FS_LOG_JSON;
    size_t before = line->size;
    /* A key is written whole, with room for a short value, or not at all. */
    if (line->cut || line->size + key_size + 16 > LINE_BYTES - TAIL_BYTES) {
        line->cut = true;
        return;
    }
    if (before > 0 && line->text[before - 1] != '{') put(line, json ? "," : " ", 1);
    if (json) put(line, "\"", 1);
    put(line, key, key_size);
    if (json)
        put(line, "\":", 2);
    else
        put(line, "=", 1);
    bool bare = json ? is_number : fs_log_is_bare(value);
    if (!bare)
        put_quoted(line, value);
    else if (!put(line, value, strlen(value)))
        line->size = before;
}

static void put_text_field(log_line *line, const char *key, const char *value)
{
    put_field(line, key, strlen(key), value, false);
}

static void put_head(log_line *line, fs_log_level level, const char *event)
{
    int64_t now_ns = fs_wall_time_ns();
    time_t seconds = (time_t)(now_ns / FS_NS_PER_S);
    struct tm utc;
    char stamp[48], date[32];
    gmtime_r(&seconds, &utc);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(stamp, sizeof stamp, "%s.%03dZ", date, (int)(now_ns % FS_NS_PER_S / FS_NS_PER_MS));
    if (state.format == FS_LOG_JSON) put(line, "{", 1);
    put_text_field(line, "time", stamp);
    put_text_field(line, "level", level_names[level]);
    if (state.process[0]) put_text_field(line, "process", state.process);
    if (state.name[0]) put_text_field(line, "name", state.name);
    put_text_field(line, "event", event);
}

static void put_fields(log_line *line, const char *fmt, fs_log_args *args)
{
    char value[VALUE_BYTES];
    fs_log_field field;
    while (fs_log_next_field(&fmt, &field)) {
        bool is_number = fs_log_format_value(field.value, field.value_size, args, value, sizeof value);
        put_field(line, field.key, field.key_size, value, is_number);
    }
}

static void write_line(const log_line *line)
{
    ssize_t n;
    do n = write(STDERR_FILENO, line->text, line->size);
    while (n < 0 && errno == EINTR);
    /* A log that cannot be written has nobody to tell. */
}

void fs_log_write(fs_log_level level, const char *event, const char *fmt, ...)
{
    if (!fs_log_enabled(level)) return;
    int saved_errno = errno;
    log_line line;
    line.size = 0;
    line.cut = false;
    put_head(&line, level, event);
    fs_log_args args;
    va_start(args.list, fmt);
    put_fields(&line, fmt, &args);
    va_end(args.list);
    put_tail(&line, state.format == FS_LOG_JSON ? "}\n" : "\n");
    write_line(&line);
    errno = saved_errno; /* a line in the middle of error handling must not change the error */
}
