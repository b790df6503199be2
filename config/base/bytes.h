/* A growing byte buffer. Zero-initialise it and free it with bytes_clear. Any thread, one at a time. */
#ifndef WINNOW_CONFIG_BASE_BYTES_H
#define WINNOW_CONFIG_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>

struct bytes {
    char *data; /* [length], owned, no NUL at the end; NULL while empty */
    size_t length, capacity;
};

/* Makes room for `more` bytes after the last one. False: out of memory, nothing changed. */
bool bytes_reserve(struct bytes *b, size_t more);
/* Appends. False: out of memory, nothing changed. */
bool bytes_add(struct bytes *b, const void *data, size_t length);
void bytes_clear(struct bytes *b);

#endif
