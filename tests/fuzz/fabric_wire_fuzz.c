/* tests/fuzz/fabric_wire_fuzz.c: dispatches, results and hints from a peer; what is accepted is read to its last byte. */
#include <stdlib.h>
#include <string.h>

#include "fabric/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sink;

static void read_dispatch(const fs_dispatch *d)
{
    for (uint32_t i = 0; i < d->num_groups; i++) {
        uint32_t expert, rows;
        fs_dispatch_group(d, i, &expert, &rows);
        sink += expert + rows;
    }
    for (uint32_t i = 0; i < d->num_pairs; i++) FS_ASSERT(fs_dispatch_pair(d, i) < d->num_rows);
    size_t elements = (size_t)d->num_rows * d->row_stride;
    for (size_t i = 0; d->row_i8 && i < elements; i++) sink += (uint8_t)d->row_i8[i];
    for (size_t i = 0; d->row_f32 && i < elements; i++) sink += d->row_f32[i] > 0;
    for (uint32_t i = 0; d->scale && i < d->num_rows; i++) sink += d->scale[i] > 0;
    size_t bytes;
    float *row;
    if (d->num_pairs > 1000 || d->hidden_size > 4096) return;
    uint8_t *block = fs_result_create(d, 1, &bytes, &row);
    fs_result result;
    FS_ASSERT(block && fs_result_decode(block, bytes, &result, NULL) == FS_OK);
    free(block);
}

static void read_result(const fs_result *r)
{
    for (uint32_t i = 0; i < r->num_groups; i++) {
        uint32_t expert;
        fs_wire_status status;
        fs_result_group(r, i, &expert, &status);
        sink += expert + status;
    }
    for (size_t i = 0; i < (size_t)r->num_pairs * r->hidden_size; i++) sink += r->row[i] > 0;
}

/* What was accepted is what the encoder makes of it. */
static void read_hint(const fs_hint *h, const uint8_t *data, size_t size)
{
    fs_hint_visit *visit = malloc((h->num_visits + 1) * sizeof(*visit));
    uint16_t *expert = malloc((h->num_uses + 1) * sizeof(*expert));
    for (uint32_t i = 0; i < h->num_visits; i++) visit[i] = fs_hint_get_visit(h, i);
    for (uint32_t i = 0; i < h->num_uses; i++) expert[i] = (uint16_t)fs_hint_get_expert(h, i);
    fs_hint_source source = {h->position, h->fingerprint, h->num_visits, visit, expert};
    fs_buffer again = {0};
    FS_ASSERT(fs_hint_encode(&source, &again) == FS_OK);
    FS_ASSERT(again.size == size && memcmp(again.data, data, size) == 0);
    fs_buffer_free(&again);
    free(visit);
    free(expert);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(
        size ? size : 1); /* exact, so that a read behind the end is seen; aligned as from the fabric */
    if (size) memcpy(copy, data, size);
    fs_detail detail = {0};
    fs_dispatch dispatch;
    fs_result result;
    fs_hint hint;
    if (fs_dispatch_decode(copy, size, &dispatch, &detail) == FS_OK) read_dispatch(&dispatch);
    if (fs_result_decode(copy, size, &result, &detail) == FS_OK) read_result(&result);
    if (fs_hint_decode(copy, size, &hint, &detail) == FS_OK) read_hint(&hint, copy, size);
    free(copy);
    return 0;
}
