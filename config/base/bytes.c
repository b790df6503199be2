/* See bytes.h. */
#include "config/base/bytes.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST_CAPACITY = 64 };

bool bytes_reserve(struct bytes *b, size_t more)
{
    if (more <= b->capacity - b->length)
        return true;
    if (more > SIZE_MAX / 2 - LEAST_CAPACITY - b->length)
        return false;
    size_t capacity = 2 * (b->length + more) + LEAST_CAPACITY;
    char *grown = realloc(b->data, capacity);
    if (!grown)
        return false;
    b->data = grown;
    b->capacity = capacity;
    return true;
}

bool bytes_add(struct bytes *b, const void *data, size_t length)
{
    if (!bytes_reserve(b, length))
        return false;
    if (length)
        memcpy(b->data + b->length, data, length);
    b->length += length;
    return true;
}

void bytes_clear(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}
