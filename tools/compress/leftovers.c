/* tools/compress/leftovers.c: which files of an earlier run are kept when one goes on, or is done. */
#include <string.h>

#include "compress.h"

static bool begins_with(const char *text, const char *begin)
{
    return strncmp(text, begin, strlen(begin)) == 0;
}

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), end_size = strlen(end);
    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

static bool is_result(const char *name)
{
    return !begins_with(name, "part-") && !begins_with(name, "work-");
}

static bool is_journal(const char *name)
{
    return strcmp(name, "journal") == 0;
}

/* The ending: a layer's file that was being written when a run was killed has a name that goes on behind it. */
static bool is_progress(const char *name)
{
    return is_journal(name) || begins_with(name, "part-") || begins_with(name, "work-x-") ||
           (begins_with(name, "experts-layer-") && ends_with(name, ".safetensors"));
}

void fs_output_remove_work(const fs_output *out)
{
    fs_output_remove(out, is_result);
}

void fs_output_clean(const fs_output *out, bool new_journal)
{
    fs_output_remove(out, new_journal ? is_journal : is_progress);
}
