/* tools/compress/journal.c: what a run has finished. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/buffer.h"

enum { MAX_JOURNAL_BYTES = 1 << 30, MAX_LINE = 1024 };

static fs_journal_expert *expert_at(fs_journal *j, uint32_t moe, uint32_t expert)
{
    return &j->expert[(size_t)moe * j->num_experts + expert];
}

/* ---- lines ---- */

static void print_checksum(const char *text, char out[17])
{
    snprintf(out, 17, "%016" PRIx64, (uint64_t)XXH3_64bits(text, strlen(text)));
}

static fs_status add_line(fs_journal *j, const char *text, fs_detail *detail)
{
    char line[MAX_LINE + 32], checksum[17];
    print_checksum(text, checksum);
    int size = snprintf(line, sizeof(line), "%s #%s\n", text, checksum);
    FS_ASSERT(size < (int)sizeof(line));
    for (const char *at = line; size > 0;) {
        ssize_t n = write(j->fd, at, (size_t)size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fs_fail(detail, FS_IO, "%s: write: %s", j->path, strerror(errno));
        at += n, size -= (int)n;
    }
    if (fdatasync(j->fd) != 0) return fs_fail(detail, FS_IO, "%s: sync: %s", j->path, strerror(errno));
    return FS_OK;
}

/* Cuts the checksum off a whole line; false: it does not fit. */
static bool take_checksum(char *line)
{
    char *mark = strrchr(line, '#'), expected[17];
    if (!mark || mark == line || mark[-1] != ' ') return false;
    mark[-1] = 0;
    print_checksum(line, expected);
    return strcmp(mark + 1, expected) == 0;
}

/* Doubles as hexadecimal floats: they come back to the bit. */
static void print_expert(char *line, uint32_t moe, uint32_t expert, uint64_t checksum,
                         const fs_expert_result *r)
{
    int at = snprintf(line, MAX_LINE, "expert %u %u %016" PRIx64 " %" PRIu64 " %" PRIu64, moe, expert,
                      checksum, r->num_rows, r->borrowed);
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        const fs_matrix_result *m = &r->part[i];
        at += snprintf(line + at, (size_t)(MAX_LINE - at), " %u %u %u %a %a %a %" PRIu64, m->rate.format,
                       m->rate.n, m->rate.m, m->error, m->density, m->damping, m->bytes);
    }
}

static bool parse_expert(const char *line, fs_journal *j)
{
    uint32_t moe, expert;
    int used = 0;
    fs_journal_expert e = {.done = true};
    if (sscanf(line, "expert %u %u %" SCNx64 " %" SCNu64 " %" SCNu64 "%n", &moe, &expert, &e.checksum,
               &e.result.num_rows, &e.result.borrowed, &used) != 5)
        return false;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        fs_matrix_result *m = &e.result.part[i];
        int more = 0;
        if (sscanf(line + used, " %u %u %u %la %la %la %" SCNu64 "%n", &m->rate.format, &m->rate.n,
                   &m->rate.m, &m->error, &m->density, &m->damping, &m->bytes, &more) != 7)
            return false;
        used += more;
    }
    if (moe >= j->num_moe_layers || expert >= j->num_experts) return false;
    *expert_at(j, moe, expert) = e;
    return true;
}

/* A layer that was done before has been gone through again. */
static bool parse_layer(const char *line, fs_journal *j)
{
    uint32_t moe;
    uint64_t sum[FS_NUM_PLANES];
    if (sscanf(line, "layer %u %" SCNx64 " %" SCNx64, &moe, &sum[0], &sum[1]) != 3 ||
        moe > j->num_layers_done || moe >= j->num_moe_layers)
        return false;
    for (uint32_t e = 0; e < j->num_experts; e++)
        if (!expert_at(j, moe, e)->done) return false;
    j->num_layers_done = moe + 1;
    memcpy(j->stream, sum, sizeof(sum));
    return true;
}

/* ---- opening ---- */

static const char head_format[] = "foresight-compress journal 1 %016" PRIx64;

static fs_status read_line(fs_journal *j, char *line, size_t number, uint64_t fingerprint, fs_detail *detail)
{
    uint64_t found;
    if (!take_checksum(line))
        return fs_fail(detail, FS_CORRUPT, "%s:%zu: its checksum is wrong", j->path, number);
    if (number == 1) {
        if (sscanf(line, "foresight-compress journal 1 %" SCNx64, &found) != 1)
            return fs_fail(detail, FS_CORRUPT, "%s: is not a journal of this version", j->path);
        if (found == fingerprint) return FS_OK;
        return fs_fail(detail, FS_INVALID,
                       "%s: was begun with another input, calibration text or other options: give the same, "
                       "or remove the "
                       "directory",
                       j->path);
    }
    if (parse_expert(line, j) || parse_layer(line, j)) return FS_OK;
    return fs_fail(detail, FS_CORRUPT, "%s:%zu: cannot be read", j->path, number);
}

/* What is behind the last newline was being written when the run was killed. */
static fs_status read_all(fs_journal *j, uint64_t fingerprint, fs_buffer *text, size_t *num_lines,
                          fs_detail *detail)
{
    size_t number = 0, whole = 0;
    fs_status st = FS_OK;
    for (char *at = (char *)text->data, *end; st == FS_OK && text->size > 0 && (end = strchr(at, '\n'));
         at = end + 1) {
        *end = 0;
        st = read_line(j, at, ++number, fingerprint, detail);
        whole = (size_t)(end + 1 - (char *)text->data);
    }
    if (st == FS_OK && ftruncate(j->fd, (off_t)whole) != 0)
        st = fs_fail(detail, FS_IO, "%s: %s", j->path, strerror(errno));
    *num_lines = number;
    return st;
}

fs_status fs_journal_open(const char *dir, const fs_model_config *config, uint64_t fingerprint,
                          fs_journal *out, fs_detail *detail)
{
    fs_journal j = {.num_moe_layers = config->num_moe_layers, .num_experts = config->num_experts};
    fs_buffer text = {0};
    size_t lines = 0;
    if (snprintf(j.path, sizeof(j.path), "%s/journal", dir) >= (int)sizeof(j.path))
        return fs_fail(detail, FS_INVALID, "%s: path is too long", dir);
    j.expert = calloc((size_t)j.num_moe_layers * j.num_experts, sizeof(*j.expert));
    if (!j.expert) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", j.path);
    j.fd = open(j.path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    fs_status st = j.fd >= 0 ? fs_file_read(j.path, MAX_JOURNAL_BYTES, &text, detail)
                             : fs_fail(detail, FS_IO, "%s: %s", j.path, strerror(errno));
    if (st == FS_OK && flock(j.fd, LOCK_EX | LOCK_NB) != 0)
        st = fs_fail(detail, FS_INVALID, "%s: another run is at work on it", dir);
    if (st == FS_OK) st = read_all(&j, fingerprint, &text, &lines, detail);
    if (st == FS_OK && lines == 0) {
        j.begun_now = true;
        char head[MAX_LINE];
        snprintf(head, sizeof(head), head_format, fingerprint);
        st = add_line(&j, head, detail);
    }
    fs_buffer_free(&text);
    if (st != FS_OK) return fs_journal_close(&j), st;
    *out = j;
    return FS_OK;
}

void fs_journal_close(fs_journal *j)
{
    if (j->fd > 0) close(j->fd);
    free(j->expert);
    *j = (fs_journal){0};
}

fs_status fs_journal_remove(fs_journal *j, fs_detail *detail)
{
    char dir[sizeof(j->path)];
    snprintf(dir, sizeof(dir), "%.*s", (int)(strlen(j->path) - strlen("/journal")), j->path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = unlink(j->path) == 0 && fd >= 0 && fsync(fd) == 0;
    fs_status st = good ? FS_OK : fs_fail(detail, FS_IO, "%s: remove: %s", j->path, strerror(errno));
    if (fd >= 0) close(fd);
    return st;
}

fs_status fs_journal_add_expert(fs_journal *j, uint32_t moe, uint32_t expert, uint64_t checksum,
                                const fs_expert_result *result, fs_detail *detail)
{
    char line[MAX_LINE];
    print_expert(line, moe, expert, checksum, result);
    *expert_at(j, moe, expert) = (fs_journal_expert){true, checksum, *result};
    return add_line(j, line, detail);
}

void fs_journal_rewind(fs_journal *j)
{
    j->num_layers_done = 0;
}

fs_status fs_journal_add_layer(fs_journal *j, uint32_t moe, const uint64_t stream[FS_NUM_PLANES],
                               fs_detail *detail)
{
    char line[MAX_LINE];
    FS_ASSERT(moe == j->num_layers_done);
    snprintf(line, sizeof(line), "layer %u %016" PRIx64 " %016" PRIx64, moe, stream[0], stream[1]);
    j->num_layers_done++;
    memcpy(j->stream, stream, sizeof(j->stream));
    return add_line(j, line, detail);
}
