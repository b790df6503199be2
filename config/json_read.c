/* See json_read.h. */
#include "config/json_read.h"

#include <string.h>

static bool begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

/* jansson 2.14 reports no failed allocation while it parses. For most it leaves the error empty. For
 * a string's memory it reports the string as a wrong token, although a whole string (its last byte
 * is the quote) is right in these two places. */
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
