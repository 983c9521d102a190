/* common/sub1/random.c: blocked blobs drawn at random: bytes from a generator, put right where not every byte is a code. */
#include "sub1/random.h"

#include <string.h>

#include "base/random.h"
#include "sub1/blocked_int.h"

enum { GROUP_ROWS = FS_BLOCKED_GROUP_ROWS, UNIT_COLS = FS_BLOCKED_UNIT_COLS, BLOCK = FS_BLOCKED_BLOCK_COLS };
enum {
    NUM_CODES = 4 * GROUP_ROWS,
    NUM_TRIPLES = 2240
}; /* 560 choices of three places, 8 of signs, half of them a sign's own bit */

size_t fs_sub1_random_bytes(uint32_t n, uint32_t rows, uint32_t cols)
{
    const fs_sub1_codec *codec = fs_sub1_codec_find(FS_SUB1_BLOCKED, n, BLOCK);
    if (!codec || rows == 0 || cols == 0 || rows > FS_SUB1_MAX_DIM || cols > FS_SUB1_MAX_DIM || cols % BLOCK)
        return 0;
    return FS_SUB1_HEADER_BYTES + codec->payload_bytes(codec, rows, cols, true);
}

/* bytes % 8 == 0 */
static void fill(fs_random *random, uint8_t *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t v = fs_random_next(random);
        memcpy(out + i, &v, 8);
    }
}

/* A way of 0 is no code. What takes its place, twice the first place and one, is never 0, and leads to each column from one place only. */
static void mend_pairs(uint8_t *unit)
{
    for (uint32_t i = 0; i < NUM_CODES; i++) {
        uint32_t code = unit[i], way = code >> 1 & 14;
        way |= 1;
        unit[i] = (uint8_t)(code & 0xc3 ? code : code | (way << 6 & 0xc0) | (way >> 2 & 3));
    }
}

/* The codes of three places that are not reserved: code in the low byte, nibble in the high one. */
typedef struct {
    uint16_t code[NUM_TRIPLES];
} triples;

static void find_triples(triples *t)
{
    uint32_t count = 0;
    for (uint32_t first = 0; first < BLOCK; first++)
        for (uint32_t second = 0; second < BLOCK; second++)
            for (uint32_t third = 0; third < BLOCK; third++) {
                bool turns = (first < second) != (second < third);
                if (first == second || second == third || third == first || (turns && third < first))
                    continue;
                uint32_t way = (first - second) & 15, next = (second - third) & 15;
                t->code[count++] = (uint16_t)((way >> 2 | first << 2 | way << 6) & 255) |
                                   (uint16_t)(next << 8);
            }
    FS_ASSERT(count == NUM_TRIPLES);
}

/* Blocks j and j + 32 of a strip share a byte of nibbles. */
static void put_triples(const triples *t, fs_random *random, uint8_t *unit)
{
    uint8_t *codes = unit, *nibbles = unit + fs_blocked_nibbles_at(3);
    for (uint32_t strip = 0; strip < FS_BLOCKED_STRIPS; strip++, codes += 64, nibbles += 32)
        for (uint32_t j = 0; j < 32; j += 2) {
            uint64_t bits = fs_random_next(random);
            for (uint32_t k = j; k < j + 2; k++, bits >>= 32) {
                uint32_t low = t->code[(bits & 0xffff) * NUM_TRIPLES >> 16];
                uint32_t high = t->code[(bits >> 16 & 0xffff) * NUM_TRIPLES >> 16];
                codes[k] = (uint8_t)low;
                codes[k + 32] = (uint8_t)high;
                nibbles[k] = (uint8_t)(low >> 8 | high >> 8 << 4);
            }
        }
}

static void fill_unit(uint32_t n, const triples *t, fs_random *random, uint8_t *unit)
{
    if (n < 3) fill(random, unit, fs_blocked_signs_at(n));
    if (n == 2) mend_pairs(unit);
    if (n == 3) put_triples(t, random, unit);
    fill(random, unit + fs_blocked_signs_at(n), FS_BLOCKED_STRIPS * FS_BLOCKED_STRIP_SIGNS);
}

/* The one spelling of a block that is wholly padding: nonzeros in columns 0 to n - 1, positive; highest first, a way of 1 between. */
static void put_padding(uint32_t n, uint8_t *unit, uint32_t i)
{
    static const uint8_t code[] = {[2] = 1 << 2 | 1 << 6, [3] = 2 << 2 | 1 << 6};
    if (n >= 2) unit[i] = code[n];
    if (n % 2) {
        uint8_t *nibble = unit + fs_blocked_nibbles_at(n) + i / 64 * FS_BLOCKED_STRIP_NIBBLES + i % 32;
        uint32_t shift = i % 64 / 32 * 4, value = n == 3;
        *nibble = (uint8_t)((*nibble & ~(15u << shift)) | value << shift);
    }
    unit[fs_blocked_signs_at(n) + i / 8] &= (uint8_t) ~(1u << i % 8);
}

static void pad_unit(uint32_t n, uint32_t rows_left, uint32_t cols_left, uint8_t *unit)
{
    if (rows_left >= GROUP_ROWS && cols_left >= UNIT_COLS) return;
    for (uint32_t i = 0; i < NUM_CODES; i++)
        if (i / 4 >= rows_left || i % 4 * BLOCK >= cols_left) put_padding(n, unit, i);
}

static void put_scales(const fs_sub1_random *what, uint32_t first_row, fs_random *random, uint8_t *out)
{
    memset(out, 0, FS_BLOCKED_SCALE_BYTES);
    for (uint32_t r = 0; r < GROUP_ROWS && first_row + r < what->rows; r++) {
        fs_bf16 scale = fs_f32_to_bf16(what->magnitude * (0.75f + 0.5f * fs_random_unit(random)));
        out[2 * r] = (uint8_t)scale;
        out[2 * r + 1] = (uint8_t)(scale >> 8);
    }
}

void fs_sub1_random_blocked(const fs_sub1_random *what, uint32_t n, uint8_t *out)
{
    fs_random random = {what->seed};
    triples t;
    uint8_t *at = out + FS_SUB1_HEADER_BYTES;
    if (n == 3) find_triples(&t);
    for (uint32_t row = 0; row < what->rows; row += GROUP_ROWS) {
        put_scales(what, row, &random, at);
        at += FS_BLOCKED_SCALE_BYTES;
        for (uint32_t col = 0; col < what->cols; col += UNIT_COLS, at += fs_blocked_unit_bytes(n)) {
            fill_unit(n, &t, &random, at);
            pad_unit(n, what->rows - row, what->cols - col, at);
        }
    }
    fs_sub1_seal(fs_sub1_codec_find(FS_SUB1_BLOCKED, n, BLOCK), what->rows, what->cols, FS_SUB1_SYMMETRIC,
                 (size_t)(at - out) - FS_SUB1_HEADER_BYTES, out);
}
