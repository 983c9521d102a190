/* common/base/status.h: the one type for everything that can fail, and the text that tells a user what was wrong. */
#ifndef FS_BASE_STATUS_H
#define FS_BASE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FS_MUST_USE           __attribute__((warn_unused_result))
#define FS_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

/* Grouped by what a caller can do about it. */
typedef enum {
    FS_OK = 0,
    /* try elsewhere */
    FS_UNAVAILABLE, /* the peer or process is not there */
    FS_MOVED,       /* it no longer holds that expert: look at a newer placement */
    /* try later */
    FS_EXHAUSTED, /* a bounded queue, pool or window is full */
    FS_NO_MEMORY,
    /* never: the same call fails again */
    FS_INVALID,     /* an argument, option or message is wrong */
    FS_CORRUPT,     /* bytes of a file or peer break their format or checksum */
    FS_NOT_FOUND,   /* no such file, tensor, model, method */
    FS_DENIED,      /* the other side did not prove that it may */
    FS_UNSUPPORTED, /* well-formed, but not something this build or version does */
    FS_IO,          /* the operating system refused: the detail has its words */
    FS_INTERNAL,    /* our own mistake, reported rather than asserted */
    /* too late */
    FS_DEADLINE,
    FS_CANCELLED,
    FS_NUM_STATUS
} fs_status;

/* Static text such as "invalid"; never NULL, whatever the value. Thread: any. */
const char *fs_status_name(fs_status status);

/* What was wrong, for a person: names file, field and value. Truncated, always terminated. Caller's memory; zero is empty. */
typedef struct {
    char text[512];
} fs_detail;

/* Sets detail (which may be NULL) and returns status, so that a check is one line:
 *   if (n > max) return fs_fail(detail, FS_INVALID, "%s: top_k %u is over %u", file, n, max);  Thread: any. */
fs_status fs_fail(fs_detail *detail, fs_status status, const char *fmt, ...) FS_PRINTF(3, 4);

/* Puts "prefix: " in front of what detail says (as files name themselves on the way up). Returns status. */
fs_status fs_fail_in(fs_detail *detail, fs_status status, const char *fmt, ...) FS_PRINTF(3, 4);

/* States what our own code guarantees; stays on in release builds. Never for anything that came from outside. */
#define FS_ASSERT(cond)                                                                                      \
    do {                                                                                                     \
        if (!(cond)) fs_assert_failed(#cond, __FILE__, __LINE__);                                            \
    } while (0)
_Noreturn void fs_assert_failed(const char *cond, const char *file, int line);

/* a * b and a + b for sizes from outside: false, and *out untouched, if the result does not fit. */
static inline bool fs_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool fs_add_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

#endif
