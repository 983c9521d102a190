/* common/base/status.c: names of the statuses, texts of failures, and the end of a process that broke its own word. */
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[FS_NUM_STATUS] = {
    [FS_OK] = "ok",
    [FS_UNAVAILABLE] = "unavailable",
    [FS_MOVED] = "moved",
    [FS_EXHAUSTED] = "exhausted",
    [FS_NO_MEMORY] = "no memory",
    [FS_INVALID] = "invalid",
    [FS_CORRUPT] = "corrupt",
    [FS_NOT_FOUND] = "not found",
    [FS_DENIED] = "denied",
    [FS_UNSUPPORTED] = "unsupported",
    [FS_IO] = "input/output error",
    [FS_INTERNAL] = "internal error",
    [FS_DEADLINE] = "deadline passed",
    [FS_CANCELLED] = "cancelled",
};

const char *fs_status_name(fs_status status)
{
    if ((unsigned)status >= FS_NUM_STATUS) return "unknown status";
    return names[status];
}

fs_status fs_fail(fs_detail *detail, fs_status status, const char *fmt, ...)
{
    if (!detail) return status;
    fs_detail made = {{0}}; /* apart, since an argument may be the old text */
    va_list args;
    va_start(args, fmt);
    vsnprintf(made.text, sizeof made.text, fmt, args);
    va_end(args);
    *detail = made;
    return status;
}

fs_status fs_fail_in(fs_detail *detail, fs_status status, const char *fmt, ...)
{
    if (!detail) return status;
    fs_detail made = {{0}};
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(made.text, sizeof made.text, fmt, args);
    va_end(args);
    if (n < 0) return status;
    size_t used = strlen(made.text), room = sizeof made.text - 1;
    for (const char *p = ": "; *p && used < room; p++) made.text[used++] = *p;
    for (const char *p = detail->text; *p && used < room; p++) made.text[used++] = *p;
    made.text[used] = 0;
    *detail = made;
    return status;
}

_Noreturn void fs_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, cond);
    abort();
}
