#include "model/json_int.h"

#include <stdio.h>
#include <string.h>

fs_status fs_json_parse(const char *text, size_t size, const char *name, fs_status bad, json_t **out,
                        fs_detail *detail)
{
    json_error_t error;
    json_t *root = json_loadb(text ? text : "", size, JSON_REJECT_DUPLICATES, &error);
    if (!root && json_error_code(&error) == json_error_out_of_memory)
        return fs_fail(detail, FS_NO_MEMORY, "%s: no memory for its JSON", name);
    if (!root)
        return fs_fail(detail, bad, "%s: not JSON: line %d, column %d: %s", name, error.line, error.column,
                       error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return fs_fail(detail, bad, "%s: not a JSON object", name);
    }
    *out = root;
    return FS_OK;
}

const char *fs_json_describe(const json_t *value, char out[80])
{
    static const char *const words[] = {[JSON_OBJECT] = "an object",
                                        [JSON_ARRAY] = "an array",
                                        [JSON_TRUE] = "true",
                                        [JSON_FALSE] = "false",
                                        [JSON_NULL] = "null"};
    if (json_is_integer(value))
        snprintf(out, 80, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(out, 80, "%g", json_real_value(value));
    else if (json_is_string(value))
        snprintf(out, 80, "'%.60s'", json_string_value(value));
    else
        snprintf(out, 80, "%s", value ? words[json_typeof(value)] : "nothing");
    return out;
}

const json_t *fs_json_get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}
