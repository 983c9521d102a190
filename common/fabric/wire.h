/* common/fabric/wire.h: what routers and expert nodes say to each other on the fabric: versioned little-endian messages. The
 * encoders and the checked decoders of both sides, so that they cannot disagree. */
#ifndef FS_FABRIC_WIRE_H
#define FS_FABRIC_WIRE_H

#include "base/buffer.h"

#define FS_WIRE_VERSION 1u

enum { FS_WIRE_DISPATCH = 16, FS_WIRE_RESULT = 17, FS_WIRE_HINT = 18 }; /* message types; 0..15 are the fabric's own */

typedef enum { FS_ROWS_I8 = 1, FS_ROWS_F32 = 2 } fs_row_format;

#define FS_WIRE_MAX_ROWS   4096u  /* of a dispatch */
#define FS_WIRE_MAX_GROUPS 4096u
#define FS_WIRE_MAX_PAIRS  (1u << 16)

/* DISPATCH: rows of activations and which experts each visits. Layout, in order:
 *   header (48 bytes): u16 version, u16 row_format, u32 layer, u64 id, u64 epoch, u32 hidden_size, u32 num_rows, u32 num_groups,
 *                      u32 num_pairs, u64 fingerprint
 *   groups [num_groups]: u32 expert, u32 num_rows of the group (>= 1)   (expert rises strictly)
 *   pairs [num_pairs]: u32 row index, in order of the groups
 *   zero padding to 8
 *   FS_ROWS_I8: f32 scale [num_rows], padding to 64, then i8 [num_rows][row_stride]; FS_ROWS_F32: padding to 64, f32 [num_rows][hidden_size]
 * row_stride is hidden_size rounded up to 64: a kernel reads whole units. */
typedef struct {
    uint64_t id;          /* the sender's; the result carries it */
    uint64_t epoch;       /* of the placement that chose this node */
    uint64_t fingerprint; /* of the model */
    uint32_t layer;       /* decoder layer number */
    fs_row_format row_format;
    uint32_t hidden_size, num_rows, num_groups, num_pairs;
    const uint8_t *group, *pair; /* borrowed; read with fs_dispatch_group and fs_dispatch_pair */
    const float *scale;          /* [num_rows], I8 */
    const int8_t *row_i8;        /* [num_rows][row_stride] */
    const float *row_f32;        /* [num_rows][hidden_size] */
    uint32_t row_stride;         /* elements */
} fs_dispatch;
void fs_dispatch_group(const fs_dispatch *d, uint32_t i, uint32_t *expert, uint32_t *num_rows);
uint32_t fs_dispatch_pair(const fs_dispatch *d, uint32_t i);

/* Checks everything: version, sizes against the limits and the message's length exactly, groups rising and summing to num_pairs,
 * row indices, scales finite (a node rounds to int8 what it computes with them, and C leaves the rounding of NaN undefined). Rows in
 * float32 may hold anything: they are only multiplied and summed, each for itself. Borrows data (8-byte aligned). FS_CORRUPT,
 * FS_UNSUPPORTED (version, row format). Thread: any. */
FS_MUST_USE fs_status fs_dispatch_decode(const uint8_t *data, size_t size, fs_dispatch *out, fs_detail *detail);

/* Encodes into a fresh block, rows copied from pointers. groups: expert[i], count[i]; pair [num_pairs] row indices. row_i8/row_f32
 * [num_rows] pointers to [hidden_size]. */
typedef struct {
    uint64_t id, epoch, fingerprint;
    uint32_t layer, hidden_size, num_rows, num_groups, num_pairs;
    fs_row_format row_format;
    const uint32_t *expert, *count, *pair;
    const float *scale;
    const int8_t *const *row_i8;
    const float *const *row_f32;
} fs_dispatch_source;
FS_MUST_USE fs_status fs_dispatch_encode(const fs_dispatch_source *source, fs_buffer *out);

/* RESULT: header (48 bytes): u16 version, u16 zero, u32 layer, u64 id, u64 epoch (the node's), u32 hidden_size, u32 num_groups,
 * u32 num_pairs, u32 flags (FS_WIRE_WANTS_HINTS), u64 compute_ns (time its experts took); groups [num_groups]: u32 expert, u32 status (fs_wire_status);
 * padding to 64; f32 [num_pairs][hidden_size] in the dispatch's pair order, zeros for a group that failed. */
typedef enum { FS_WIRE_OK = 0, FS_WIRE_MOVED = 1, FS_WIRE_CORRUPT = 2, FS_WIRE_EXHAUSTED = 3, FS_WIRE_INVALID = 4 } fs_wire_status;
#define FS_WIRE_WANTS_HINTS 1u /* the node does not hold all its experts in memory */
typedef struct {
    uint64_t id, epoch, compute_ns;
    uint32_t flags;
    uint32_t layer, hidden_size, num_groups, num_pairs;
    const uint8_t *group;
    const float *row; /* [num_pairs][hidden_size] */
} fs_result;
void fs_result_group(const fs_result *r, uint32_t i, uint32_t *expert, fs_wire_status *status);
FS_MUST_USE fs_status fs_result_decode(const uint8_t *data, size_t size, fs_result *out, fs_detail *detail);

/* A result as a block to be filled in place: returns a malloc'd, 64-byte aligned block of *size bytes with header and groups
 * written (status OK) and rows zeroed; *row points to them. NULL: no memory. Sent with owned = the block. */
uint8_t *fs_result_create(const fs_dispatch *dispatch, uint64_t epoch, size_t *size, float **row);
void fs_result_set_group(uint8_t *block, uint32_t i, fs_wire_status status);
void fs_result_set_flags(uint8_t *block, uint32_t flags);
void fs_result_set_compute(uint8_t *block, uint64_t compute_ns);

/* HINT, from router to expert node: which of the node's experts the router will use, and when. Only advice: it may be wrong, late or never
 * sent, and no text depends on it. Time is counted in layer visits: the router numbers those that it makes (a visit: one micro-batch at one
 * MoE layer), and the node measures how long one takes. Layout, in order:
 *   header (32 bytes): u16 version, u16 zero, u32 num_visits, u64 position, u64 fingerprint, u32 num_uses, u32 zero
 *   visits [num_visits]: u32 distance, u16 layer, u16 count (>= 1)
 *   uses [num_uses]: u16 expert, in order of the visits (rising strictly within one); zero padding to 8
 * What a hint tells is added to what others told; a use is taken off when the router's rows for that expert arrive. Distance
 * FS_WIRE_HINT_NEVER: what was told of these experts is void (their sequence has ended, or took another way). */
#define FS_WIRE_HINT_NEVER        UINT32_MAX
#define FS_WIRE_HINT_MAX_DISTANCE (1u << 20)
#define FS_WIRE_MAX_HINT_VISITS   4096u
#define FS_WIRE_MAX_HINT_USES     (1u << 16)

/* A visit and how many of the uses are its. layer: decoder layer number. distance: visits after the header's position; 0: the next one. */
typedef struct {
    uint32_t distance;
    uint16_t layer, count;
} fs_hint_visit;

typedef struct {
    uint64_t position;    /* visits that the router had begun when it wrote this */
    uint64_t fingerprint; /* of the model */
    uint32_t num_visits, num_uses;
    const uint8_t *visit, *use; /* borrowed; read with the two below */
} fs_hint;
fs_hint_visit fs_hint_get_visit(const fs_hint *hint, uint32_t i);
uint32_t fs_hint_get_expert(const fs_hint *hint, uint32_t i);

/* Checks everything, as fs_dispatch_decode does. Borrows data (8-byte aligned). FS_CORRUPT, FS_UNSUPPORTED (version). Thread: any. */
FS_MUST_USE fs_status fs_hint_decode(const uint8_t *data, size_t size, fs_hint *out, fs_detail *detail);

/* Encodes into a fresh block. visit [num_visits]; expert [sum of their counts]. FS_INVALID: what a decoder would refuse; FS_NO_MEMORY. */
typedef struct {
    uint64_t position, fingerprint;
    uint32_t num_visits;
    const fs_hint_visit *visit;
    const uint16_t *expert;
} fs_hint_source;
FS_MUST_USE fs_status fs_hint_encode(const fs_hint_source *source, fs_buffer *out);

#endif
