/* tests/fuzz/trace_events_fuzz.c: any bytes as a trace: what is read is written as it can be read again, the rest is refused. */
#include <string.h>

#include "trace/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fs_trace_reader *reader = NULL, *again = NULL;
    fs_detail detail;
    if (fs_trace_open(data, size, "fuzz", &reader, &detail) != FS_OK) return 0;
    const fs_trace_model *model = fs_trace_reader_model(reader);
    fs_trace_event event, copy;
    int64_t previous_ns = 0;
    bool cut;
    fs_buffer bytes = {0};
    while (fs_trace_next(reader, &event, &cut, &detail) == FS_OK) {
        bytes.size = 0;
        fs_trace_append_header(&bytes, model);
        fs_trace_append(&bytes, model, &event, previous_ns);
        FS_ASSERT(fs_trace_open(bytes.data, bytes.size, "again", &again, &detail) == FS_OK);
        FS_ASSERT(fs_trace_next(again, &copy, &cut, &detail) == FS_OK);
        FS_ASSERT(copy.kind == event.kind && copy.time_ns == event.time_ns - previous_ns &&
                  copy.sequence == event.sequence && copy.num_parts == event.num_parts);
        previous_ns = event.time_ns;
        fs_trace_reader_free(again);
    }
    fs_buffer_free(&bytes);
    fs_trace_reader_free(reader);
    return 0;
}
