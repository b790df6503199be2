/* See file.h. */
#include "config/base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/bytes.h"

static const char *code_of(const struct file_wanted *w, const char *usual)
{
    return w->code ? w->code : usual;
}

/* The length of a pipe is not known in advance, so the buffer grows while reading. */
static bool read_stream(const struct file_wanted *w, FILE *stream, struct bytes *b, struct error *e)
{
    while (!feof(stream)) {
        if (!bytes_reserve(b, 4096))
            return error_set_memory(e, w->what, b->length + 4096);
        b->length += fread(b->data + b->length, 1, b->capacity - b->length, stream);
        if (ferror(stream))
            return error_set(e, code_of(w, "file_error"), w->where, "%s cannot be read: %s",
                             w->what, strerror(errno));
        if (b->length > w->most)
            return error_set(e, code_of(w, "invalid_value"), w->where,
                             "%s is longer than %zu bytes", w->what, w->most);
    }
    return bytes_add(b, "", 1) || error_set_memory(e, w->what, b->length + 1);
}

char *file_read(const struct file_wanted *w, size_t *length, struct error *e)
{
    FILE *stream = w->path ? fopen(w->path, "rbe") : stdin;
    if (!stream) {
        error_set(e, code_of(w, errno == ENOENT ? "file_not_found" : "file_error"), w->where,
                  "%s cannot be opened: %s", w->what, strerror(errno));
        return NULL;
    }
    struct bytes b = {0};
    bool whole = read_stream(w, stream, &b, e);
    if (w->path)
        fclose(stream);
    if (!whole)
        bytes_clear(&b);
    else
        *length = b.length - 1;
    return b.data;
}
