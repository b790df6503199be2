/* A body's text to JSON: see body_parse in request.h. Pure. */
#include <string.h>

#include "config/json_read.h"
#include "server/api/request.h"

enum { MAX_DEPTH = 64 };

/* jansson's own limit is 2048. Brackets in strings do not count. */
static bool depth_fits(const char *text, size_t length)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH)
                return false;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return true;
}

json_t *body_parse(const char *text, size_t length, struct error *e)
{
    if (length >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3)) {
        text += 3;
        length -= 3;
    }
    if (length == 0) {
        error_set(e, "invalid_json", "", "the body is empty; it must be a JSON object");
        return NULL;
    }
    if (!depth_fits(text, length)) {
        error_set(e, "invalid_json", "", "the body is nested more than %d levels deep", MAX_DEPTH);
        return NULL;
    }
    json_t *value = json_read(text, length, JSON_ALLOW_NUL, "invalid_json", "", "the body", e);
    if (value && !json_is_object(value)) {
        json_decref(value);
        error_set(e, "invalid_json", "", "the body is JSON but not an object");
        return NULL;
    }
    return value;
}
