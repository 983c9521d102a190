/* common/base/log.h: leveled log lines, each an event with fields, as logfmt or JSON on standard error. */
#ifndef FS_BASE_LOG_H
#define FS_BASE_LOG_H

#include "base/status.h"

typedef enum {
    FS_LOG_ERROR, /* somebody must act */
    FS_LOG_WARN,  /* handled, but worth a look */
    FS_LOG_INFO,  /* changes of state */
    FS_LOG_DEBUG, /* the rest; never a line a token */
    FS_LOG_OFF = -1
} fs_log_level;

typedef enum { FS_LOG_LOGFMT, FS_LOG_JSON } fs_log_format;

/* Sets what the whole process logs. process: "router", copied; name: the member's own name, may be "", copied.
 * Until it is called the level is INFO and the format logfmt. Thread: before others start. */
void fs_log_init(fs_log_level level, fs_log_format format, const char *process, const char *name);

/* "error", "warn", "info", "debug", "off"; "logfmt", "json". FS_INVALID for another word. */
FS_MUST_USE fs_status fs_log_parse_level(const char *word, fs_log_level *out);
FS_MUST_USE fs_status fs_log_parse_format(const char *word, fs_log_format *out);

/* Writes one line in one write(2): time, level, process, name, event, then the fields. event: snake_case.
 * fmt: "node=%u cause=%s": space-separated key=value; values are escaped where the format needs it, so that text from
 * outside cannot forge a line (a value that may hold spaces is written as key="%s", its quotes escaped). Thread: any. */
void fs_log_write(fs_log_level level, const char *event, const char *fmt, ...) FS_PRINTF(3, 4);
bool fs_log_enabled(fs_log_level level);

#define fs_log_at(level, ...)                                                                                \
    do {                                                                                                     \
        if (fs_log_enabled(level)) fs_log_write(level, __VA_ARGS__);                                         \
    } while (0)
#define fs_log_error(...) fs_log_at(FS_LOG_ERROR, __VA_ARGS__)
#define fs_log_warn(...)  fs_log_at(FS_LOG_WARN, __VA_ARGS__)
#define fs_log_info(...)  fs_log_at(FS_LOG_INFO, __VA_ARGS__)
#define fs_log_debug(...) fs_log_at(FS_LOG_DEBUG, __VA_ARGS__)

#endif
