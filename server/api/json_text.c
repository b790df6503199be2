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
