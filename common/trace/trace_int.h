/* common/trace/trace_int.h: the bytes of a trace, as writer and reader share them.
 *   header  "FSTR"  u8 version 1  u8 0  u16 top_k  u32 num_moe_layers  u32 num_experts  u64 fingerprint  u64 expert_bytes
 *   event   u8 kind, then varints: nanoseconds since the event before, and what the kind names; a part is three of them; ROUTES ends with
 *           a byte an expert (two, little-endian, where there are more than 256). */
#ifndef FS_TRACE_INT_H
#define FS_TRACE_INT_H

#include "trace/trace.h"

#define FS_TRACE_MAGIC        "FSTR"
#define FS_TRACE_VERSION      1u
#define FS_TRACE_HEADER_BYTES 32u
#define FS_TRACE_MAX_LAYERS   65536u
#define FS_TRACE_MAX_EXPERTS  65536u
#define FS_TRACE_MAX_TOP_K    256u

static inline size_t fs_trace_expert_width(const fs_trace_model *model)
{
    return model->num_experts > 256 ? 2 : 1;
}
static inline size_t fs_trace_experts_a_token(const fs_trace_model *model)
{
    return (size_t)model->num_moe_layers * model->top_k;
}
static inline bool fs_trace_model_is_sane(const fs_trace_model *m)
{
    return m->num_moe_layers >= 1 && m->num_moe_layers <= FS_TRACE_MAX_LAYERS && m->num_experts >= 1 &&
           m->num_experts <= FS_TRACE_MAX_EXPERTS && m->top_k >= 1 && m->top_k <= FS_TRACE_MAX_TOP_K &&
           m->top_k <= m->num_experts;
}

#endif
