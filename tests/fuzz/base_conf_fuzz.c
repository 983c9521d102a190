/* tests/fuzz/base_conf_fuzz.c: a configuration file of any bytes, and what it says printed and read again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    fs_conf_common common;
    const char *text;
    uint32_t number, word;
    uint64_t bytes;
    int64_t time_ns;
    double real;
    bool flag;
} target;

static const fs_conf_option options[] = {
    FS_CONF_COMMON(target, common),
    {.name = "text", .type = FS_CONF_STRING, .offset = offsetof(target, text)},
    {.name = "number", .type = FS_CONF_U32, .offset = offsetof(target, number)},
    {.name = "word", .type = FS_CONF_ENUM, .offset = offsetof(target, word), .words = "a|b|c"},
    {.name = "bytes", .type = FS_CONF_BYTES, .offset = offsetof(target, bytes)},
    {.name = "time", .type = FS_CONF_DURATION, .offset = offsetof(target, time_ns)},
    {.name = "real", .type = FS_CONF_FLOAT, .offset = offsetof(target, real)},
    {.name = "flag", .type = FS_CONF_BOOL, .offset = offsetof(target, flag)},
    {0},
};
static const fs_conf_spec spec = {"fuzz", "", NULL, options};

/* Loads the bytes as a file; with print, what is in effect goes there instead. */
static fs_status load(const void *data, size_t size, target *values, fs_conf **conf, FILE *print)
{
    char path[64], *args[] = {"fuzz", "--config", path, "--print-config"}, *environment[] = {NULL};
    fs_conf_outcome outcome;
    fs_detail detail = {{0}};
    int fd = memfd_create("conf", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fs_status st = fs_conf_load(&spec, print ? 4 : 3, args, environment, values, NULL, conf, &outcome, print,
                                &detail);
    close(fd);
    if (st != FS_OK && !detail.text[0]) abort(); /* every error says something */
    return st;
}

static void compare(const target *a, const target *b)
{
    bool same_text = a->text && b->text ? strcmp(a->text, b->text) == 0 : a->text == b->text;
    if (!same_text || a->number != b->number || a->word != b->word || a->bytes != b->bytes) abort();
    if (a->time_ns != b->time_ns || a->real != b->real || a->flag != b->flag) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    target values, again, unused;
    fs_conf *conf = NULL, *conf_again = NULL, *none = NULL;
    char *printed = NULL;
    size_t printed_size = 0;
    if (load(data, size, &values, &conf, NULL) != FS_OK) return 0;
    FILE *print = open_memstream(&printed, &printed_size);
    if (!print || load(data, size, &unused, &none, print) != FS_OK) abort();
    fclose(print);
    if (load(printed, printed_size, &again, &conf_again, NULL) != FS_OK) abort();
    compare(&values, &again);
    fs_conf_destroy(conf);
    fs_conf_destroy(conf_again);
    free(printed);
    return 0;
}
