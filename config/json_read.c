/* See json_read.h. */
#include "config/json_read.h"

#include <string.h>

static bool begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

/* jansson 2.14 does not report failed allocations while it parses. Most leave the error's text empty.
 * When a string's memory is missing, it calls the string an invalid token; but in these two places a
 * whole string, which ends with a quote, is never invalid. */
static bool memory_was_short(const json_error_t *wrong, const char *text, size_t length)
{
    if (!wrong->text[0])
        return true;
    bool at_string = begins(wrong->text, "invalid token") || begins(wrong->text, "string or '}'");
    size_t read = (size_t)wrong->position;
    return at_string && read > 0 && read <= length && text[read - 1] == '"';
}

json_t *json_read(const char *text, size_t length, size_t flags, const char *code,
                  const char *where, const char *what, struct error *e)
{
    json_error_t wrong = {.text = ""};
    char shown[80];
    json_t *value = json_loadb(text, length, flags, &wrong);
    if (value)
        return value;
    if (memory_was_short(&wrong, text, length))
        error_set_memory(e, what, length);
    else
        error_set(e, code, where, "%s is not JSON: line %d, column %d: %s", what, wrong.line,
                  wrong.column, error_excerpt(shown, wrong.text, strlen(wrong.text)));
    return NULL;
}
