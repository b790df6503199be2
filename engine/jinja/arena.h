/* Memory of one compiled template or one rendering: taken in pieces, freed all at once. A cap
 * bounds the sum of all pieces, because templates may be hostile. One thread at a time. */
#ifndef WINNOW_ENGINE_JINJA_ARENA_H
#define WINNOW_ENGINE_JINJA_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

struct arena_chunk;

struct arena {
    SLIST_HEAD(arena_chunks, arena_chunk) chunks; /* newest first */
    size_t taken_bytes;                           /* asked from malloc so far */
    size_t cap_bytes;
    bool cap_hit;  /* the last take failed because of the cap (true) or malloc (false) */
    bool is_short; /* malloc has failed */
};

void arena_init(struct arena *a, size_t cap_bytes);
/* 16-byte aligned, not cleared; NULL when the cap or the machine's memory is exhausted. */
void *arena_take(struct arena *a, size_t bytes);
void arena_free(struct arena *a);

#endif
