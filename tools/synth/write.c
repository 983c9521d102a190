/* tools/synth/write.c: the directory, written front to back: threads draw the next batch of pieces while one of them writes the last. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "model/output.h"
#include "model/safetensors.h"
#include "synth/synth.h"

enum { FILE_ALIGN = 4096, MAX_PIECES = 4096 };
#define BATCH_BYTES (32u << 20)

/* Bytes [offset, offset + bytes) of a tensor, at data. */
typedef struct {
    uint32_t tensor;
    uint64_t offset;
    size_t bytes;
    uint8_t *data;
} piece;

typedef struct {
    uint8_t *memory;
    size_t capacity;
    uint32_t num_pieces;
    piece pieces[MAX_PIECES];
} batch;

typedef struct {
    const fs_synth_plan *plan;
    fs_output out;
    fs_pool *pool;
    batch batches[2];
    batch *drawn, *written; /* drawn: the one being filled; written: the one that goes to the disk */
    uint32_t next_tensor;   /* where the next batch begins */
    uint64_t next_offset;
    fs_safetensors_writer *writer; /* of open_file, or NULL */
    uint32_t open_file;
    fs_status status; /* of writing */
    fs_detail detail;
} run;

/* ---- batches ---- */

static piece next_piece(const run *r)
{
    const fs_synth_tensor *t = &r->plan->tensor[r->next_tensor];
    const uint64_t left = t->bytes - r->next_offset;
    const bool whole = t->kind == FS_FILL_SUB1 || left < FS_SYNTH_UNIT_BYTES;
    return (piece){r->next_tensor, r->next_offset, whole ? left : FS_SYNTH_UNIT_BYTES, NULL};
}

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Takes the next pieces into r->drawn: as many as BATCH_BYTES hold, one for each thread at least. */
static fs_status take_pieces(run *r, fs_detail *detail)
{
    batch *b = r->drawn;
    size_t size = 0;
    b->num_pieces = 0;
    while (r->next_tensor < r->plan->num_tensors && b->num_pieces < MAX_PIECES) {
        piece p = next_piece(r);
        const bool enough = b->num_pieces >= fs_pool_num_threads(r->pool);
        if (enough && size + aligned(p.bytes) > BATCH_BYTES) break;
        b->pieces[b->num_pieces++] = p;
        size += aligned(p.bytes);
        r->next_offset += p.bytes;
        if (r->next_offset < r->plan->tensor[r->next_tensor].bytes) continue;
        r->next_tensor++;
        r->next_offset = 0;
    }
    if (size > b->capacity) {
        free(b->memory);
        b->memory = fs_alloc_aligned(size);
        b->capacity = b->memory ? size : 0;
        if (!b->memory) return fs_fail(detail, FS_NO_MEMORY, "no memory for %zu bytes of weights", size);
    }
    size = 0;
    for (uint32_t i = 0; i < b->num_pieces; i++) {
        b->pieces[i].data = b->memory + size;
        size += aligned(b->pieces[i].bytes);
    }
    return FS_OK;
}

/* ---- files ---- */

static fs_status finish_file(run *r)
{
    fs_status st = r->writer ? fs_safetensors_writer_finish(r->writer, &r->detail) : FS_OK;
    fs_safetensors_writer_destroy(r->writer);
    r->writer = NULL;
    return st;
}

static fs_status declare(run *r, const fs_synth_tensor *t)
{
    const bool sub1 = t->kind == FS_FILL_SUB1;
    const uint64_t matrix[2] = {t->rows, t->cols}, bytes[1] = {t->bytes};
    fs_status st = fs_safetensors_writer_declare(r->writer, t->name, sub1 ? FS_DTYPE_U8 : FS_DTYPE_BF16,
                                                 sub1 || !t->cols ? 1 : 2, sub1 ? bytes : matrix);
    if (st == FS_OK) st = fs_output_note_tensor(&r->out, t->name, t->bytes, r->plan->file[t->file]);
    return st == FS_OK ? FS_OK : fs_fail(&r->detail, st, "%s: %s", t->name, fs_status_name(st));
}

/* Begins the file that tensor `first` is the first of. */
static fs_status begin_file(run *r, uint32_t first)
{
    const fs_synth_plan *p = r->plan;
    const uint32_t file = p->tensor[first].file;
    const char *path = fs_output_file(&r->out, p->file[file]);
    fs_status st = finish_file(r);
    if (st != FS_OK) return st;
    if (!path) return fs_fail(&r->detail, FS_NO_MEMORY, "no memory for a path");
    st = fs_safetensors_writer_create(path, FILE_ALIGN, &r->writer, &r->detail);
    if (st != FS_OK) return st;
    r->open_file = file;
    /* transformers refuses files that do not say what framework's layout they have. */
    st = fs_safetensors_writer_metadata(r->writer, "format", "pt");
    if (st != FS_OK) return fs_fail(&r->detail, st, "%s: metadata: %s", path, fs_status_name(st));
    for (uint32_t i = first; st == FS_OK && i < p->num_tensors && p->tensor[i].file == file; i++)
        st = declare(r, &p->tensor[i]);
    return st;
}

static void write_pieces(run *r)
{
    const batch *b = r->written;
    for (uint32_t i = 0; b && r->status == FS_OK && i < b->num_pieces; i++) {
        const piece *p = &b->pieces[i];
        if (!r->writer || r->plan->tensor[p->tensor].file != r->open_file)
            r->status = begin_file(r, p->tensor);
        if (r->status == FS_OK)
            r->status = fs_safetensors_writer_append(r->writer, p->data, p->bytes, &r->detail);
    }
}

/* ---- the run ---- */

/* Task 0 writes, the others draw. */
static void task(void *arg, uint32_t index)
{
    run *r = arg;
    if (index == 0) {
        write_pieces(r);
        return;
    }
    const piece *p = &r->drawn->pieces[index - 1];
    fs_synth_fill(r->plan, &r->plan->tensor[p->tensor], p->offset, p->bytes, p->data);
}

static uint64_t batch_bytes(const batch *b)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; b && i < b->num_pieces; i++) bytes += b->pieces[i].bytes;
    return bytes;
}

static uint64_t total_bytes(const fs_synth_plan *plan)
{
    return plan->expert_bytes + plan->backbone_bytes;
}

static fs_status write_tensors(run *r, const fs_synth_hooks *hooks, fs_detail *detail)
{
    uint64_t done = 0;
    fs_status st = FS_OK;
    for (uint32_t turn = 0; st == FS_OK; turn++) {
        r->drawn = &r->batches[turn % 2];
        if (hooks->stopped && hooks->stopped(hooks->arg)) return fs_fail(detail, FS_CANCELLED, "stopped");
        st = take_pieces(r, detail);
        if (st != FS_OK || (r->drawn->num_pieces == 0 && !r->written)) break;
        fs_pool_run(r->pool, task, r, 1 + r->drawn->num_pieces);
        if (r->status != FS_OK) return *detail = r->detail, r->status;
        done += batch_bytes(r->written);
        if (hooks->progress) hooks->progress(hooks->arg, done, total_bytes(r->plan));
        r->written = r->drawn->num_pieces ? r->drawn : NULL;
    }
    if (st == FS_OK && finish_file(r) != FS_OK) st = r->status = FS_IO, *detail = r->detail;
    return st;
}

static fs_status write_small(run *r, fs_detail *detail)
{
    static const char generation[] =
        "{\n  \"bos_token_id\": 0,\n  \"eos_token_id\": 0,\n  \"do_sample\": false\n}\n";
    const fs_buffer *config = &r->plan->config_text;
    fs_buffer tokenizer = {0};
    fs_synth_tokenizer_text(r->plan->config.vocab_size, &tokenizer);
    fs_status st = tokenizer.failed
                       ? fs_fail(detail, FS_NO_MEMORY, "no memory for tokenizer.json")
                       : fs_output_write(&r->out, "tokenizer.json", tokenizer.data, tokenizer.size, detail);
    if (st == FS_OK) st = fs_output_write(&r->out, "config.json", config->data, config->size, detail);
    if (st == FS_OK)
        st = fs_output_write(&r->out, "generation_config.json", generation, sizeof(generation) - 1, detail);
    fs_buffer_free(&tokenizer);
    return st == FS_OK ? fs_output_write_index(&r->out, detail) : st;
}

/* Told before an hour's writing. */
static fs_status check_room(const run *r, fs_detail *detail)
{
    struct statvfs info;
    const double gb = 1e9;
    if (statvfs(r->out.staging, &info) != 0) return FS_OK;
    const double room = (double)info.f_bavail * (double)info.f_frsize, needed = (double)total_bytes(r->plan);
    if (room >= needed) return FS_OK;
    return fs_fail(detail, FS_IO, "%s: the disk is too full: %.2f GB are needed, %.2f GB are free",
                   r->out.path, needed / gb, room / gb);
}

fs_status fs_synth_write(const fs_synth_plan *plan, const char *path, fs_pool *pool,
                         const fs_synth_hooks *hooks, fs_detail *detail)
{
    run *r = calloc(1, sizeof(*r));
    if (!r) return fs_fail(detail, FS_NO_MEMORY, "no memory to write with");
    r->plan = plan;
    r->pool = pool;
    fs_status st = fs_output_begin(path, false, &r->out, detail);
    if (st == FS_OK) st = check_room(r, detail);
    if (st == FS_OK) st = write_tensors(r, hooks, detail);
    if (st == FS_OK) st = write_small(r, detail);
    if (st == FS_OK) st = fs_output_commit(&r->out, detail);
    fs_safetensors_writer_destroy(r->writer);
    fs_output_fini(&r->out);
    free(r->batches[0].memory);
    free(r->batches[1].memory);
    free(r);
    return st;
}
