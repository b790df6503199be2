/* A list of chunks with a bump pointer in the newest: see arena.h. */
#include "engine/jinja/arena.h"

#include <stdint.h>
#include <stdlib.h>

enum { CHUNK_BYTES = 32 * 1024, ALIGNMENT = 16 };

struct arena_chunk {
    SLIST_ENTRY(arena_chunk) link;
    size_t used, size;
    _Alignas(ALIGNMENT) unsigned char bytes[];
};

void arena_init(struct arena *a, size_t cap_bytes)
{
    *a = (struct arena){.chunks = SLIST_HEAD_INITIALIZER(a->chunks), .cap_bytes = cap_bytes};
}

/* A piece of at least half a chunk gets a chunk of its own. It is put second in the list, so that
 * the first one stays in use. */
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
    struct arena_chunk *newest = SLIST_FIRST(&a->chunks);
    if (newest && size != CHUNK_BYTES)
        SLIST_INSERT_AFTER(newest, chunk, link);
    else
        SLIST_INSERT_HEAD(&a->chunks, chunk, link);
    return chunk->bytes;
}

void *arena_take(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX - ALIGNMENT) {
        a->cap_hit = true;
        return NULL;
    }
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct arena_chunk *newest = SLIST_FIRST(&a->chunks);
    if (!newest || newest->size - newest->used < bytes)
        return take_chunk(a, bytes);
    void *piece = newest->bytes + newest->used;
    newest->used += bytes;
    return piece;
}

void arena_free(struct arena *a)
{
    for (struct arena_chunk *chunk; (chunk = SLIST_FIRST(&a->chunks));) {
        SLIST_REMOVE_HEAD(&a->chunks, link);
        free(chunk);
    }
    a->taken_bytes = 0;
}
