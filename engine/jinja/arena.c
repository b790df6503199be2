/* A list of chunks with a bump pointer in the newest: see arena.h. */
#include "engine/jinja/arena.h"

#include <stdint.h>
#include <stdlib.h>

enum { CHUNK_BYTES = 32 * 1024, ALIGNMENT = 16 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, size;
    _Alignas(ALIGNMENT) unsigned char bytes[];
};

void arena_init(struct arena *a, size_t cap_bytes)
{
    *a = (struct arena){.cap_bytes = cap_bytes};
}

/* A piece of at least half a chunk gets a chunk of its own behind the newest one, which stays in
 * use. */
static void *take_chunk(struct arena *a, size_t bytes)
{
    size_t size = bytes >= CHUNK_BYTES / 2 ? bytes : CHUNK_BYTES;
    if (size > a->cap_bytes - a->taken_bytes) {
        a->cap_hit = true;
        return NULL;
    }
    struct arena_chunk *chunk = malloc(sizeof *chunk + size);
    if (!chunk) {
        a->cap_hit = false;
        a->is_short = true;
        return NULL;
    }
    a->taken_bytes += size;
    chunk->used = bytes;
    chunk->size = size;
    if (a->chunks && size != CHUNK_BYTES) {
        chunk->next = a->chunks->next;
        a->chunks->next = chunk;
    } else {
        chunk->next = a->chunks;
        a->chunks = chunk;
    }
    return chunk->bytes;
}

void *arena_take(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX - ALIGNMENT) {
        a->cap_hit = true;
        return NULL;
    }
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct arena_chunk *newest = a->chunks;
    if (!newest || newest->size - newest->used < bytes)
        return take_chunk(a, bytes);
    void *piece = newest->bytes + newest->used;
    newest->used += bytes;
    return piece;
}

void arena_free(struct arena *a)
{
    while (a->chunks) {
        struct arena_chunk *next = a->chunks->next;
        free(a->chunks);
        a->chunks = next;
    }
    a->taken_bytes = 0;
}
