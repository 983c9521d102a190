/* common/fabric/wire_int.h: what both message files share. */
#ifndef FS_FABRIC_WIRE_INT_H
#define FS_FABRIC_WIRE_INT_H

#include <string.h>

#include "base/status.h"

#define FS_WIRE_HEADER_BYTES 48u
#define FS_WIRE_MAX_HIDDEN   (1u << 20)

/* Floats and rows are used where they lie in the message, without a swap. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the fabric's messages are little-endian");

static inline size_t fs_wire_pad(size_t size, size_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static inline uint32_t fs_wire_get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void fs_wire_put_u32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void fs_wire_put_u64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline bool fs_wire_all_zero(const uint8_t *p, size_t size)
{
    uint8_t any = 0;
    for (size_t i = 0; i < size; i++) any |= p[i];
    return any == 0;
}

#endif
