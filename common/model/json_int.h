/* common/model/json_int.h: JSON from files, with the one set of rules that all of this folder's parsers
 * use. */
#ifndef FS_MODEL_JSON_INT_H
#define FS_MODEL_JSON_INT_H

#include <jansson.h>

#include "base/status.h"

/* The text as an object. Refused with `bad`: text that is not JSON (duplicate keys, NaN, nesting deeper
 * than 2048, bytes that are not UTF-8 included) or not an object. FS_NO_MEMORY. name: the file, for the
 * detail. out: json_decref it. */
FS_MUST_USE fs_status fs_json_parse(const char *text, size_t size, const char *name, fs_status bad,
                                    json_t **out, fs_detail *detail);

/* A value in a few words, for details: "4096", "'gelu'", "an array". Returns out. */
const char *fs_json_describe(const json_t *value, char out[80]);

/* object[key], or NULL if it is absent or null (Hugging Face files write null for what is not set). */
const json_t *fs_json_get(const json_t *object, const char *key);

#endif
