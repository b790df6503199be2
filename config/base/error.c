/* Errors as values: see error.h. */
#include "config/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "config/base/utf8.h"

/* Removes an incomplete UTF-8 character from the end of a text that filled its buffer. */
static void cut_to_character(char *text, size_t capacity)
{
    size_t length = strlen(text);
    if (length + 1 < capacity)
        return;
    while (length > 0 && ((unsigned char)text[length - 1] & 0xC0) == 0x80)
        length--;
    if (length > 0 && (unsigned char)text[length - 1] >= 0xC0)
        length--;
    text[length] = 0;
}

/* The parentheses keep the analyzer's macros of error.h from expanding here. */
bool(error_set)(struct error *e, const char *code, const char *where, const char *format, ...)
{
    if (!e)
        return false;
    memset(e, 0, sizeof *e);
    snprintf(e->code, sizeof e->code, "%s", code);
    snprintf(e->where, sizeof e->where, "%s", where ? where : "");
    cut_to_character(e->where, sizeof e->where);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(e->message, sizeof e->message, format, arguments);
    va_end(arguments);
    cut_to_character(e->message, sizeof e->message);
    return false;
}

bool(error_set_memory)(struct error *e, const char *what, uint64_t bytes)
{
    return error_set(e, "out_of_memory", "", "cannot allocate %llu bytes for %s",
                     (unsigned long long)bytes, what);
}

const char *error_excerpt(char out[80], const char *text, uint64_t length)
{
    size_t used = 0;
    uint64_t i = 0;
    while (i < length) {
        size_t n = utf8_printable_length(text + i, length - i);
        if (used + (n ? n : 1) > 64)
            break;
        if (n) {
            memcpy(out + used, text + i, n);
            used += n;
            i += n;
        } else {
            out[used++] = '?';
            i++;
        }
    }
    if (i < length) {
        memcpy(out + used, "...", 3);
        used += 3;
    }
    out[used] = 0;
    return out;
}
