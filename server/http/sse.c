/* See sse.h. */
#include "server/http/sse.h"

#include <string.h>

static int add(const char *text, size_t length, void *out)
{
    return bytes_add(out, text, length) ? 0 : -1;
}

static bool add_text(struct bytes *out, const char *text)
{
    return bytes_add(out, text, strlen(text));
}

bool json_add(struct bytes *out, const json_t *value)
{
    size_t before = out->length;
    if (value && json_dump_callback(value, add, out, JSON_COMPACT) == 0)
        return true;
    out->length = before;
    return false;
}

bool sse_event(struct bytes *out, const json_t *value)
{
    size_t before = out->length;
    if (add_text(out, "data: ") && json_add(out, value) && add_text(out, "\n\n"))
        return true;
    out->length = before;
    return false;
}

bool sse_done(struct bytes *out)
{
    return add_text(out, "data: [DONE]\n\n");
}

bool sse_ping(struct bytes *out)
{
    return add_text(out, ": ping\n\n");
}
