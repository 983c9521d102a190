/* common/rpc/bytes.c: gRPC's slices, metadata and times as the plain ones of this project. */
#include <grpc/byte_buffer_reader.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/rpc_int.h"

bool fs_rpc_bytes_init(fs_rpc_bytes *bytes, grpc_byte_buffer *buffer)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) return false;
    bytes->slice = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    bytes->data = GRPC_SLICE_START_PTR(bytes->slice);
    bytes->size = GRPC_SLICE_LENGTH(bytes->slice);
    return true;
}

void fs_rpc_bytes_fini(fs_rpc_bytes *bytes)
{
    grpc_slice_unref(bytes->slice);
}

const char *fs_rpc_strings_keep(fs_rpc_string **strings, grpc_slice slice)
{
    size_t size = GRPC_SLICE_LENGTH(slice);
    fs_rpc_string *s = malloc(sizeof(*s) + size + 1);
    if (!s) return NULL;
    memcpy(s->text, GRPC_SLICE_START_PTR(slice), size);
    s->text[size] = 0;
    s->next = *strings;
    *strings = s;
    return s->text;
}

const char *fs_rpc_metadata_find(const grpc_metadata_array *array, const char *key, fs_rpc_string **strings)
{
    for (size_t i = 0; i < array->count; i++)
        if (grpc_slice_str_cmp(array->metadata[i].key, key) == 0)
            return fs_rpc_strings_keep(strings, array->metadata[i].value);
    return NULL;
}

void fs_rpc_strings_free(fs_rpc_string **strings)
{
    while (*strings) {
        fs_rpc_string *s = *strings;
        *strings = s->next;
        free(s);
    }
}

gpr_timespec fs_rpc_timespec_of(int64_t deadline_ns)
{
    if (deadline_ns == FS_NEVER) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (deadline_ns < 0) deadline_ns = 0;
    return (gpr_timespec){.tv_sec = deadline_ns / FS_NS_PER_S,
                          .tv_nsec = (int32_t)(deadline_ns % FS_NS_PER_S),
                          .clock_type = GPR_CLOCK_MONOTONIC};
}

int64_t fs_rpc_ns_of(gpr_timespec deadline)
{
    gpr_timespec t = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
    if (t.tv_sec >= FS_NEVER / FS_NS_PER_S - 1) return FS_NEVER;
    if (t.tv_sec < 0) return 0;
    return t.tv_sec * FS_NS_PER_S + t.tv_nsec;
}
