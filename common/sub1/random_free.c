/* common/sub1/random_free.c: *free* blobs put together of blocks of rows that were drawn and encoded once: encoding takes a hundred times as
 * long as copying. */
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "sub1/free_int.h"
#include "sub1/random.h"

enum { NUM_VARIANTS = 16, BLOCK_ROWS = FS_FREE_BLOCK_ROWS, LANES = FS_FREE_LANES };

/* A block's rows, encoded: its own offsets, then its groups. */
typedef struct {
    fs_buffer blob;
    uint32_t num_groups;
} block;

struct fs_sub1_stock {
    uint32_t rows, cols, num_whole, tail; /* tail: rows of a last block that is not whole */
    block whole[NUM_VARIANTS], last[NUM_VARIANTS];
};

static fs_status draw_block(uint32_t rows, uint32_t cols, float density, fs_random *random, block *out,
                            fs_detail *detail)
{
    const size_t count = (size_t)rows * cols;
    float *w = malloc(count * sizeof(*w));
    if (!w) return fs_fail(detail, FS_NO_MEMORY, "no memory for %u x %u weights", rows, cols);
    for (size_t i = 0; i < count; i++) {
        float u = fs_random_unit(random);
        w[i] = u >= density ? 0 : u < density / 2 ? 1 : -1;
    }
    out->num_groups = (rows + LANES - 1) / LANES;
    fs_status st = fs_sub1_encode_free(w, rows, cols, &out->blob, detail);
    free(w);
    return st;
}

fs_status fs_sub1_stock_create(uint32_t rows, uint32_t cols, float density, uint64_t seed,
                               fs_sub1_stock **out, fs_detail *detail)
{
    if (rows == 0 || cols == 0 || rows > FS_SUB1_MAX_DIM || cols > FS_SUB1_MAX_DIM)
        return fs_fail(detail, FS_INVALID, "%u x %u: rows and columns are 1 to %u", rows, cols,
                       FS_SUB1_MAX_DIM);
    fs_sub1_stock *stock = calloc(1, sizeof(*stock));
    if (!stock) return fs_fail(detail, FS_NO_MEMORY, "no memory for random matrices");
    fs_random random = {seed};
    fs_status st = FS_OK;
    *stock = (fs_sub1_stock){
        .rows = rows, .cols = cols, .num_whole = rows / BLOCK_ROWS, .tail = rows % BLOCK_ROWS};
    for (int i = 0; i < NUM_VARIANTS; i++) {
        if (st == FS_OK && stock->num_whole)
            st = draw_block(BLOCK_ROWS, cols, density, &random, &stock->whole[i], detail);
        if (st == FS_OK && stock->tail)
            st = draw_block(stock->tail, cols, density, &random, &stock->last[i], detail);
    }
    if (st == FS_OK)
        *out = stock;
    else
        fs_sub1_stock_destroy(stock);
    return st;
}

void fs_sub1_stock_destroy(fs_sub1_stock *stock)
{
    if (!stock) return;
    for (int i = 0; i < NUM_VARIANTS; i++) {
        fs_buffer_free(&stock->whole[i].blob);
        fs_buffer_free(&stock->last[i].blob);
    }
    free(stock);
}

/* The matrix's blocks are drawn in order, from its seed. */
static const block *next_block(const fs_sub1_stock *stock, uint32_t index, fs_random *choice)
{
    uint32_t variant = fs_random_below(choice, NUM_VARIANTS);
    return index < stock->num_whole ? &stock->whole[variant] : &stock->last[variant];
}

static uint32_t num_blocks(const fs_sub1_stock *stock)
{
    return stock->num_whole + (stock->tail != 0);
}

/* What is copied of a block: its groups. */
static size_t body_bytes(const block *b)
{
    return b->blob.size - FS_SUB1_HEADER_BYTES - (size_t)b->num_groups * 4;
}

size_t fs_sub1_random_free_bytes(const fs_sub1_stock *stock, const fs_sub1_random *what)
{
    FS_ASSERT(what->rows == stock->rows && what->cols == stock->cols);
    fs_random choice = {what->seed};
    size_t bytes = FS_SUB1_HEADER_BYTES;
    for (uint32_t i = 0; i < num_blocks(stock); i++) {
        const block *b = next_block(stock, i, &choice);
        bytes += (size_t)b->num_groups * 4 + body_bytes(b);
    }
    return bytes;
}

static uint32_t get_u32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void put_u16(uint8_t *at, uint32_t v)
{
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

static void put_u32(uint8_t *at, uint64_t v)
{
    FS_ASSERT(v <= UINT32_MAX);
    put_u16(at, (uint32_t)v);
    put_u16(at + 2, (uint32_t)(v >> 16));
}

/* A group's scales, where its rows have such weights. */
static void put_scales(float magnitude, fs_random *random, uint8_t *group)
{
    if (group[0] == FS_FREE_EMPTY) return;
    uint8_t *pos = group + FS_FREE_HEAD_BYTES + LANES, *neg = pos + 2 * LANES;
    for (uint32_t l = 0; l < 2 * LANES; l += 2) {
        uint32_t scale = fs_f32_to_bf16(magnitude * (0.75f + 0.5f * fs_random_unit(random)));
        if (pos[l] | pos[l + 1]) put_u16(pos + l, scale);
        if (neg[l] | neg[l + 1]) put_u16(neg + l, scale | 0x8000);
    }
}

void fs_sub1_random_free(const fs_sub1_stock *stock, const fs_sub1_random *what, uint8_t *out)
{
    fs_random choice = {what->seed}, scales = {~what->seed};
    const uint32_t num_groups = (what->rows + LANES - 1) / LANES;
    uint8_t *payload = out + FS_SUB1_HEADER_BYTES, *directory = payload,
            *at = payload + 4 * (size_t)num_groups;
    for (uint32_t i = 0; i < num_blocks(stock); i++) {
        const block *b = next_block(stock, i, &choice);
        const uint8_t *from = b->blob.data + FS_SUB1_HEADER_BYTES;
        const uint32_t first = 4 * b->num_groups;
        memcpy(at, from + first, body_bytes(b));
        for (uint32_t g = 0; g < b->num_groups; g++, directory += 4) {
            uint8_t *group = at + (get_u32(from + 4 * g) - first);
            put_u32(directory, (uint64_t)(group - payload));
            put_scales(what->magnitude, &scales, group);
        }
        at += body_bytes(b);
    }
    fs_sub1_seal(&fs_free, what->rows, what->cols, 0, (size_t)(at - payload), out);
}
