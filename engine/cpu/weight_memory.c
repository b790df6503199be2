/* Chunks of packed weights: see weight_memory.h. A chunk is reserved whole; the system gives memory
 * for it as it is written, 2 MiB at a time. */
#include "engine/cpu/weight_memory.h"

#include <stdlib.h>
#include <sys/mman.h>

#define CHUNK_BYTES ((size_t)256 << 20)
#define HUGE_PAGE   ((size_t)2 << 20)

struct weight_chunk {
    SLIST_ENTRY(weight_chunk) link;
    uint8_t *base;
    size_t bytes, used;
    uint32_t n_taken;
};

static uint8_t *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Begins at a huge page. */
static uint8_t *map_aligned(size_t bytes)
{
    uint8_t *p = map(bytes + HUGE_PAGE);
    if (p == NULL)
        return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0)
        munmap(p, before);
    munmap(p + before + bytes, HUGE_PAGE - before);
    return p + before;
}

static struct weight_chunk *new_chunk(size_t least, struct error *e)
{
    struct weight_chunk *c = calloc(1, sizeof *c);
    size_t exact = (least + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (c == NULL)
        goto fail;
    c->bytes = exact < CHUNK_BYTES ? CHUNK_BYTES : exact;
    c->base = map_aligned(c->bytes);
    if (c->base == NULL && c->bytes > exact) { /* address space or overcommit is limited */
        c->bytes = exact;
        c->base = map_aligned(c->bytes);
    }
    if (c->base == NULL)
        goto fail;
    madvise(c->base, c->bytes, MADV_HUGEPAGE); /* a wish: slower without */
    return c;
fail:
    free(c);
    error_set_memory(e, "weights", least);
    return NULL;
}

uint8_t *weight_memory_take(struct weight_memory *m, size_t bytes, struct error *e)
{
    const size_t room = (bytes + 63) / 64 * 64;
    struct weight_chunk *c = SLIST_FIRST(&m->chunks);
    if (c == NULL || c->bytes - c->used < room) {
        c = new_chunk(room, e);
        if (c == NULL)
            return NULL;
        SLIST_INSERT_HEAD(&m->chunks, c, link);
    }
    uint8_t *at = c->base + c->used;
    c->used += room;
    c->n_taken++;
    return at;
}

void weight_memory_give(struct weight_memory *m, const uint8_t *at)
{
    struct weight_chunk *c = SLIST_FIRST(&m->chunks);
    while (c && (at < c->base || at >= c->base + c->bytes))
        c = SLIST_NEXT(c, link);
    if (c == NULL || --c->n_taken > 0)
        return;
    SLIST_REMOVE(&m->chunks, c, weight_chunk, link);
    munmap(c->base, c->bytes);
    free(c);
}
