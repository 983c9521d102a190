/* common/sub1/gpu/blocked_kernels.h: integer sums of *blocked* matrices. A thread is a matrix row, so the 32 threads of a warp read one
 * run of bytes and look at the same 16 columns: their look-ups in shared memory meet no bank conflict, whatever the weights.
 *
 * Sums travel in pairs, two of 16 bits in a word, added as one 32-bit integer: exact while neither passes 2^15, which is why a
 * block takes at most FS_GPU_MAX_NONZEROS of a row (258 * 127 < 2^15; -128 counts as -127). For one row of x the pair is (positive,
 * negative) and the sign is part of the look-up's index; for more it is two rows of x. */
#ifndef FS_GPU_BLOCKED_KERNELS_H
#define FS_GPU_BLOCKED_KERNELS_H

#include "gpu/tasks.h"

/* Which product and which part of it a block has. */
typedef struct {
    uint32_t first_row, first_unit, num_units, first_x, num_x;
} fs_gpu_part;

FS_DEVICE const fs_gpu_product *fs_find_product(const fs_gpu_product *list, uint32_t count, uint32_t block)
{
    uint32_t low = 0, high = count; /* the last one that begins at or before the block */
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (list[middle].first_block <= block)
            low = middle;
        else
            high = middle;
    }
    return list + low;
}

FS_DEVICE fs_gpu_part fs_part_of(const fs_gpu_product *p, uint32_t block, uint32_t x_a_tile)
{
    uint32_t at = block - p->first_block, x_tile = at % p->x_tiles;
    at /= p->x_tiles;
    fs_gpu_part part;
    part.first_row = at % p->row_tiles * FS_BLOCK_DIM;
    part.first_unit = at / p->row_tiles * p->units_a_split;
    uint32_t units_left = p->num_units - part.first_unit;
    part.num_units = units_left < p->units_a_split ? units_left : p->units_a_split;
    part.first_x = x_tile * x_a_tile;
    uint32_t x_left = p->num_x - part.first_x;
    part.num_x = x_left < x_a_tile ? x_left : x_a_tile;
    return part;
}

FS_DEVICE uint32_t fs_x_at(const int8_t *x, uint32_t at)
{
    int32_t v = fs_read_i8(x + at);
    return (uint32_t)(v < -127 ? -127 : v);
}

/* One row of x: for every 16 columns the words x of a positive weight, then those of a negative one. */
FS_DEVICE void fs_fill_signed(uint8_t *table, const int8_t *x, uint32_t num_cols, uint32_t t)
{
    for (uint32_t c = t; c < num_cols; c += FS_BLOCK_DIM) {
        uint8_t *at = table + c / 16 * FS_GPU_TABLE_BLOCK + c % 16 * 4;
        uint32_t v = fs_x_at(x, c);
        fs_store_word(at, v);
        fs_store_word(at + 64, v << 16);
    }
}

/* Four rows of x for every quad: a column's four values as two words. Rows beyond num_x are zero. */
FS_DEVICE void fs_fill_quads(uint8_t *table, const int8_t *x, uint32_t stride, uint32_t num_x, uint32_t quads,
                             uint32_t num_cols, uint32_t t)
{
    for (uint32_t c = t; c < num_cols; c += FS_BLOCK_DIM) {
        uint8_t *at = table + c / FS_GPU_UNIT_COLS * quads * FS_GPU_TABLE_UNIT +
                      c % FS_GPU_UNIT_COLS / 16 * FS_GPU_TABLE_BLOCK + c % 16 * 8;
        FS_UNROLL(2)
        for (uint32_t q = 0; q < quads; q++) {
            uint32_t v[4];
            FS_UNROLL(4)
            for (uint32_t i = 0; i < 4; i++)
                v[i] = 4 * q + i < num_x ? fs_x_at(x, (4 * q + i) * stride + c) : 0;
            fs_store_pair(at + q * FS_GPU_TABLE_UNIT, v[0] + (v[1] << 16), v[2] + (v[3] << 16));
        }
    }
}

/* What a row's four blocks of a unit say: byte k of at[j] is the place of block k's nonzero j, that of neg[j] is 16 if it is negative. */
typedef struct {
    uint32_t at[3], neg[3];
} fs_gpu_codes;

/* n:16, n a constant. The first place is in the nibbles (n = 1) or in the codes, which also say the way back to the second, as the
 * nibbles do to the third; whoever passes column 0 on its way changes the sign. Four blocks at once, a byte each: bit 4 takes up
 * what a subtraction borrows. */
FS_DEVICE void fs_decode(uint32_t n, const uint8_t *unit, uint32_t row, fs_gpu_codes *codes)
{
    uint32_t nibbles = 0, word = 0;
    uint32_t signs = fs_read_word(unit + FS_GPU_SIGNS_AT(n) + row / 8 * 4) >> row % 8 * 4 & 15u;
    if (n % 2 != 0)
        nibbles = fs_read_word(unit + FS_GPU_NIBBLES_AT(n) + row / 16 * 32 + row % 8 * 4) >>
                      row % 16 / 8 * 4 &
                  0x0f0f0f0fu;
    if (n >= 2) word = fs_read_word(unit + row * 4);
    codes->at[0] = n == 1 ? nibbles : word >> 2 & 0x0f0f0f0fu;
    codes->neg[0] = signs * 0x02040810u & 0x10101010u; /* bit k to bit 4 of byte k; other bits fall between */
    FS_UNROLL(2)
    for (uint32_t j = 1; j < n; j++) {
        uint32_t way = j == 1 ? (word >> 6 & 0x03030303u) | (word << 2 & 0x0c0c0c0cu) : nibbles;
        uint32_t left = (codes->at[j - 1] | 0x10101010u) - way;
        codes->at[j] = left & 0x0f0f0f0fu;
        codes->neg[j] = (codes->neg[j - 1] ^ ~left) & 0x10101010u;
    }
}

/* The pair's halves: the low one is sign-extended, the high one is what is left. */
FS_DEVICE int32_t fs_low_sum(uint32_t pair)
{
    return (int32_t)(int16_t)(pair & 0xffffu);
}
FS_DEVICE int32_t fs_high_sum(uint32_t pair)
{
    return (int32_t)(pair - (uint32_t)fs_low_sum(pair)) >> 16;
}

/* offset: of the unit's table, a multiple of 256; a byte of the index words replaces its low one: one instruction an address. */
FS_DEVICE uint32_t fs_offset(uint32_t words, uint32_t k, uint32_t offset)
{
    return fs_byte_permute(words, offset, 0x7650u + k) + k * FS_GPU_TABLE_BLOCK;
}

FS_DEVICE uint32_t fs_sum_signed(const uint8_t *unit, uint32_t row, uint32_t num_units, uint32_t n,
                                 const uint8_t *table)
{
    uint32_t pair = 0;
    FS_UNROLL(4)
    for (uint32_t u = 0; u < num_units; u++, unit += FS_GPU_UNIT_BYTES(n)) {
        fs_gpu_codes codes;
        fs_decode(n, unit, row, &codes);
        FS_UNROLL(3)
        for (uint32_t j = 0; j < n; j++) {
            uint32_t index = (codes.at[j] | codes.neg[j]) << 2;
            FS_UNROLL(4)
            for (uint32_t k = 0; k < 4; k++)
                pair += fs_load_word(table + fs_offset(index, k, u * FS_GPU_TABLE_UNIT));
        }
    }
    return pair;
}

/* all[w] += the word of every nonzero, minus[w] -= that of every negative one. */
FS_DEVICE void fs_sum_quads(const uint8_t *unit, uint32_t row, uint32_t num_units, uint32_t n, uint32_t quads,
                            const uint8_t *table, uint32_t *all, uint32_t *minus)
{
    FS_UNROLL(1)
    for (uint32_t u = 0; u < num_units;
         u++, unit += FS_GPU_UNIT_BYTES(n), table += quads * FS_GPU_TABLE_UNIT) {
        fs_gpu_codes codes;
        fs_decode(n, unit, row, &codes);
        FS_UNROLL(3)
        for (uint32_t j = 0; j < n; j++) {
            uint32_t index = codes.at[j] << 3, sign = codes.neg[j] << 3;
            FS_UNROLL(4)
            for (uint32_t k = 0; k < 4; k++) {
                uint32_t mask = fs_byte_permute(sign, 0, 0x8888u + k * 0x1111u); /* -1 if negative, else 0 */
                const uint8_t *at = table + fs_offset(index, k, 0);
                FS_UNROLL(2)
                for (uint32_t q = 0; q < quads; q++) {
                    fs_u32x2 v = fs_load_pair(at + q * FS_GPU_TABLE_UNIT);
                    all[2 * q] += v.x;
                    all[2 * q + 1] += v.y;
                    minus[2 * q] += v.x * mask;
                    minus[2 * q + 1] += v.y * mask;
                }
            }
        }
    }
}

FS_DEVICE void fs_add_sums(const fs_gpu_product *p, uint32_t x, uint32_t row, int32_t pos, int32_t neg)
{
    int32_t *sums = p->sums + (uint64_t)x * 2 * p->padded_rows + row;
    fs_atomic_add(sums, pos);
    fs_atomic_add(sums + p->padded_rows, neg);
}

/* x: a row of x is in the lower half of its word if x is even. */
FS_DEVICE void fs_add_quads(const fs_gpu_product *p, const fs_gpu_part *part, uint32_t row, uint32_t quads,
                            const uint32_t *all, const uint32_t *minus)
{
    FS_UNROLL(8)
    for (uint32_t x = 0; x < 4 * quads; x++) {
        int32_t total = x % 2 ? fs_high_sum(all[x / 2]) : fs_low_sum(all[x / 2]);
        int32_t neg = x % 2 ? -fs_high_sum(minus[x / 2]) : -fs_low_sum(minus[x / 2]);
        if (x < part->num_x) fs_add_sums(p, part->first_x + x, row, total - neg, neg);
    }
}

/* quads 0: one row of x a block, by the signed table. n, quads: constants, and the code is made for them. */
FS_DEVICE void fs_blocked(const fs_gpu_product *list, uint32_t count, uint32_t n, uint32_t quads)
{
    const fs_gpu_product *p = fs_find_product(list, count, FS_BLOCK);
    const fs_gpu_part part = fs_part_of(p, FS_BLOCK, quads ? 4 * quads : 1);
    uint8_t *table = FS_SHARED_BYTES;
    FS_EACH_THREAD(t)
    {
        const int8_t *x = p->x + (uint64_t)part.first_x * p->x_stride + part.first_unit * FS_GPU_UNIT_COLS;
        uint32_t num_cols = part.num_units * FS_GPU_UNIT_COLS;
        if (quads == 0)
            fs_fill_signed(table, x, num_cols, t);
        else
            fs_fill_quads(table, x, p->x_stride, part.num_x, quads, num_cols, t);
    }
    FS_EACH_THREAD_ALONE(t)
    {
        uint32_t row = part.first_row + t;
        if (row >= p->padded_rows) continue;
        const uint8_t *unit = p->payload + (uint64_t)(row / FS_GPU_GROUP_ROWS) * p->group_bytes +
                              p->scale_bytes + part.first_unit * FS_GPU_UNIT_BYTES(n);
        if (quads == 0) {
            uint32_t pair = fs_sum_signed(unit, row % FS_GPU_GROUP_ROWS, part.num_units, n, table);
            fs_add_sums(p, part.first_x, row, fs_low_sum(pair), fs_high_sum(pair));
        } else {
            uint32_t all[4] = {0, 0, 0, 0}, minus[4] = {0, 0, 0, 0};
            fs_sum_quads(unit, row % FS_GPU_GROUP_ROWS, part.num_units, n, quads, table, all, minus);
            fs_add_quads(p, &part, row, quads, all, minus);
        }
    }
}

FS_KERNEL(fs_blocked_1_16_x1, fs_gpu_product)
{
    fs_blocked(list, count, 1, 0);
}
FS_KERNEL(fs_blocked_1_16_x4, fs_gpu_product)
{
    fs_blocked(list, count, 1, 1);
}
FS_KERNEL(fs_blocked_1_16_x8, fs_gpu_product)
{
    fs_blocked(list, count, 1, 2);
}
FS_KERNEL(fs_blocked_2_16_x1, fs_gpu_product)
{
    fs_blocked(list, count, 2, 0);
}
FS_KERNEL(fs_blocked_2_16_x4, fs_gpu_product)
{
    fs_blocked(list, count, 2, 1);
}
FS_KERNEL(fs_blocked_2_16_x8, fs_gpu_product)
{
    fs_blocked(list, count, 2, 2);
}
FS_KERNEL(fs_blocked_3_16_x1, fs_gpu_product)
{
    fs_blocked(list, count, 3, 0);
}
FS_KERNEL(fs_blocked_3_16_x4, fs_gpu_product)
{
    fs_blocked(list, count, 3, 1);
}
FS_KERNEL(fs_blocked_3_16_x8, fs_gpu_product)
{
    fs_blocked(list, count, 3, 2);
}

#endif
