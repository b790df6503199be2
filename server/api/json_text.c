/* See json_text.h. */
#include <stdlib.h>
#include <string.h>

#include "server/api/json_text.h"

/* Bytes of the well-formed UTF-8 character at `s` (Unicode's table 3-7), 0 when there is none. */
static size_t character_length(const unsigned char *s, size_t n)
{
    static const struct {
        unsigned char first_low, first_high, second_low, second_high, length;
    } rows[] = {
        {0x00, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
        {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
        {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (s[0] < rows[i].first_low || s[0] > rows[i].first_high)
            continue;
        if (rows[i].length > n ||
            (rows[i].length > 1 && (s[1] < rows[i].second_low || s[1] > rows[i].second_high)))
            return 0;
        for (size_t k = 2; k < rows[i].length; k++)
            if ((s[k] & 0xC0) != 0x80)
                return 0;
        return rows[i].length;
    }
    return 0;
}

json_t *json_text(const char *bytes, size_t length)
{
    json_t *text = json_stringn(bytes, length);
    if (text)
        return text;
    char *valid = malloc(3 * length + 1);
    size_t n = 0;
    for (size_t i = 0; valid && i < length;) {
        size_t step = character_length((const unsigned char *)bytes + i, length - i);
        memcpy(valid + n, step ? bytes + i : "\xEF\xBF\xBD", step ? step : 3);
        n += step ? step : 3;
        i += step ? step : 1;
    }
    text = valid ? json_stringn(valid, n) : NULL;
    free(valid);
    return text;
}
