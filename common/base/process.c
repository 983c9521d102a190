/* common/base/process.c: see process.h. */
#include "base/process.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static fs_status parse_hex(const char *text, const char *where, uint8_t key[FS_CLUSTER_KEY_BYTES],
                           fs_detail *detail)
{
    size_t len = strcspn(text, " \t\r\n");
    if (len != 2 * FS_CLUSTER_KEY_BYTES || text[len + strspn(text + len, " \t\r\n")] != '\0')
        return fs_fail(detail, FS_INVALID, "%s: a cluster key is 64 hexadecimal digits, not %zu characters",
                       where, len);
    uint8_t parsed[FS_CLUSTER_KEY_BYTES];
    for (size_t i = 0; i < FS_CLUSTER_KEY_BYTES; i++) {
        int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return fs_fail(detail, FS_INVALID, "%s: character %zu of the cluster key is no hexadecimal digit",
                           where, hi < 0 ? 2 * i + 1 : 2 * i + 2);
        parsed[i] = (uint8_t)(hi * 16 + lo);
    }
    memcpy(key, parsed, sizeof(parsed));
    return FS_OK;
}

fs_status fs_cluster_key_load(const char *hex, const char *path, uint8_t key[FS_CLUSTER_KEY_BYTES],
                              fs_detail *detail)
{
    if (hex && path)
        return fs_fail(detail, FS_INVALID, "cluster key: given both as text and as a file; give one");
    if (hex) return parse_hex(hex, "cluster key", key, detail);
    if (!path)
        return fs_fail(
            detail, FS_INVALID,
            "cluster key: none given (--cluster-key-file FILE, or FORESIGHT_CLUSTER_KEY in the environment)");
    struct stat st;
    if (stat(path, &st) == 0 && (st.st_mode & 077) != 0)
        return fs_fail(detail, FS_INVALID, "%s: mode %04o lets others read the cluster key; chmod 600 it",
                       path, st.st_mode & 07777);
    fs_buffer text = {0};
    fs_status status = fs_file_read(path, 4096, &text, detail);
    if (status == FS_OK) status = parse_hex((const char *)text.data, path, key, detail);
    fs_buffer_free(&text);
    return status;
}

void fs_process_die_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == 1) raise(SIGTERM); /* it died before the line above */
}

void fs_process_ready(const char *key, const char *value)
{
    printf("ready %s=%s\n", key, value);
    fflush(stdout);
}

uint64_t fs_process_random(void)
{
    uint64_t value = 0;
    FS_ASSERT(getrandom(&value, sizeof(value), 0) == (ssize_t)sizeof(value));
    return value;
}
