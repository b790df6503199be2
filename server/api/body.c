/* A body's text to JSON: see body_parse in request.h. Pure. */
#include <string.h>

#include "config/json_read.h"
#include "server/api/request.h"

enum { MAX_DEPTH = 64 };

/* What jansson takes on a 64-bit machine for an object, an array and an entry, and the most that one
 * body may take: 16 MiB of "{}," would take 1.3 GB, a list of 6 million numbers takes this much. */
enum { OBJECT_BYTES = 224, ARRAY_BYTES = 112, ENTRY_BYTES = 40, MEMBER_BYTES = 80 };
#define MAX_PARSED_BYTES ((uint64_t)256 << 20)

/* Looks at the text before it is parsed. Brackets in strings do not count. jansson's own limit of the
 * depth is 2048. */
static bool shape_fits(const char *text, size_t length, struct error *e)
{
    int depth = 0;
    uint64_t bytes = 0;
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
            bytes += c == '{' ? OBJECT_BYTES : ARRAY_BYTES;
            if (++depth > MAX_DEPTH)
                return error_set(e, "invalid_json", "",
                                 "the body is nested more than %d levels deep", MAX_DEPTH);
        } else if (c == ',' || c == ':') {
            bytes += c == ',' ? ENTRY_BYTES : MEMBER_BYTES;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    if (bytes <= MAX_PARSED_BYTES)
        return true;
    return error_set(e, "body_too_large", "",
                     "the body has so many JSON values that they take %llu MB of memory; at most "
                     "%llu MB are allowed, so send it in parts",
                     (unsigned long long)(bytes >> 20),
                     (unsigned long long)(MAX_PARSED_BYTES >> 20));
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
    if (!shape_fits(text, length, e))
        return NULL;
    json_t *value = json_read(text, length, JSON_ALLOW_NUL, "invalid_json", "", "the body", e);
    if (value && !json_is_object(value)) {
        json_decref(value);
        error_set(e, "invalid_json", "", "the body is JSON but not an object");
        return NULL;
    }
    return value;
}
