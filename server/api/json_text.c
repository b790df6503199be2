/* See json_text.h. */
#include <stdlib.h>
#include <string.h>

#include "server/api/json_text.h"

#include "config/base/utf8.h"

json_t *json_text(const char *bytes, size_t length)
{
    json_t *text = json_stringn(bytes, length);
    if (text)
        return text;
    char *valid = malloc(3 * length + 1);
    size_t n = 0;
    for (size_t i = 0; valid && i < length;) {
        size_t step = utf8_length(bytes + i, length - i);
        memcpy(valid + n, step ? bytes + i : UTF8_REPLACEMENT, step ? step : 3);
        n += step ? step : 3;
        i += step ? step : 1;
    }
    text = valid ? json_stringn(valid, n) : NULL;
    free(valid);
    return text;
}

static int add(const char *text, size_t length, void *out)
{
    return bytes_add(out, text, length) ? 0 : -1;
}

bool json_add_any(struct bytes *out, const json_t *value)
{
    size_t before = out->length;
    if (value && json_dump_callback(value, add, out, JSON_COMPACT | JSON_ENCODE_ANY) == 0)
        return true;
    out->length = before;
    return false;
}

bool json_add_text(struct bytes *out, const char *bytes, size_t length)
{
    json_t *text = json_text(bytes, length);
    bool ok = json_add_any(out, text);
    json_decref(text);
    return ok;
}

bool json_add_raw(struct bytes *out, const char *text)
{
    return bytes_add(out, text, strlen(text));
}

bool json_add_entries(struct bytes *out, const json_t *array)
{
    size_t before = out->length, i;
    json_t *entry;
    json_array_foreach((json_t *)(uintptr_t)array, i, entry)
    {
        if ((out->length == 0 || json_add_raw(out, ",")) && json_add_any(out, entry))
            continue;
        out->length = before;
        return false;
    }
    return array != NULL;
}
