/* State memory on the device: scores, holes, summaries and page tables of sequences
 * (cache/pages/state_memory.h). One block is allocated with the pool and handed out by the buddy
 * allocator; calls take effect in the order of the stream. */
#include <stdlib.h>

#include "cuda/host/backend_private.h"

static void *state_take(void *context, size_t bytes)
{
    struct cuda_backend *c = (struct cuda_backend *)context;
    uint64_t offset = c->buddy ? buddy_take(c->buddy, bytes) : BUDDY_NONE;
    if (offset == BUDDY_NONE &&
        c->n_given > 0) { /* some pieces are only free after the next flush */
        state_flush(c);
        offset = buddy_take(c->buddy, bytes);
    }
    return offset == BUDDY_NONE ? NULL : c->state + offset;
}

/* A change of a page table in this piece may still be under way: the piece is free for others
 * after the next flush. */
static void state_give(void *context, void *p)
{
    struct cuda_backend *c = (struct cuda_backend *)context;
    if (!p)
        return;
    uint64_t offset = (uint64_t)((uint8_t *)p - c->state);
    if (c->n_given == c->given_capacity) {
        size_t capacity = c->given_capacity ? 2 * c->given_capacity : 1024;
        uint64_t *given = (uint64_t *)realloc(c->given, capacity * sizeof *given);
        if (!given) {
            state_flush(c);
            buddy_give(c->buddy, offset);
            return;
        }
        c->given = given;
        c->given_capacity = capacity;
    }
    c->given[c->n_given++] = offset;
}

static void state_copy(void *context, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *c = (struct cuda_backend *)context;
    cuda_check(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, c->stream),
               "copying state memory");
}

static void state_clear(void *context, void *p, size_t bytes)
{
    struct cuda_backend *c = (struct cuda_backend *)context;
    cuda_check(c, cudaMemsetAsync(p, 0, bytes, c->stream), "clearing state memory");
}

enum { CHANGES = 65536, PENDING = 2 * CHANGES };

/* The entry of the hash for the change of `to` in this flush, or the free entry for it. */
static uint64_t *pending_place(const struct cuda_backend *c, const uint32_t *to)
{
    uint64_t at = ((uint64_t)(uintptr_t)to >> 2) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    for (;; at++) {
        uint64_t *place = &c->pending[at % PENDING];
        if (*place >> 32 != c->n_flushes || c->changes[(uint32_t)*place].address == to)
            return place;
    }
}

/* The changes of a launch are made in any order, so an entry that changes twice before it is in
 * the list once. That happens to a forked table whose last page is then copied, and to a table
 * that has moved. */
static void state_set_page(void *context, uint32_t *to, uint32_t page)
{
    struct cuda_backend *c = (struct cuda_backend *)context;
    uint64_t *place = pending_place(c, to);
    if (*place >> 32 == c->n_flushes) {
        c->changes[(uint32_t)*place].page = page;
        return;
    }
    if (c->n_changes == c->changes_capacity) {
        state_flush(c);
        place = pending_place(c, to);
    }
    *place = (uint64_t)c->n_flushes << 32 | c->n_changes;
    c->changes[c->n_changes++] = (struct table_change){to, page, 0};
}

void state_flush(struct cuda_backend *c)
{
    const size_t at_once = c->mailbox.half_bytes / sizeof *c->changes;
    for (size_t done = 0; done < c->n_changes;) {
        size_t n = c->n_changes - done < at_once ? c->n_changes - done : at_once;
        const struct table_change *sent =
            (const struct table_change *)mailbox_send(c, c->changes + done, n * sizeof *c->changes);
        launch_table_changes(c->stream, sent, (uint32_t)n);
        done += n;
    }
    c->n_changes = 0;
    c->n_flushes++;
    for (size_t i = 0; i < c->n_given; i++)
        buddy_give(c->buddy, c->given[i]);
    c->n_given = 0;
}

static const uint64_t EXTRA_MOST = UINT64_C(64) << 20;

/* For each page its scores and its table entry, twice: tables grow by halves, in pieces that are
 * powers of two. And a sixteenth of the pool, or 64 MiB of a small one, for histories, key sums,
 * summaries and what every sequence has. */
static uint64_t state_bytes(uint64_t n_pages, uint64_t page_bytes)
{
    uint64_t pool = n_pages * page_bytes, extra = pool / 16;
    if (extra < EXTRA_MOST)
        extra = pool < EXTRA_MOST ? pool : EXTRA_MOST;
    return 2 * n_pages * (PAGE_SLOTS * sizeof(float) + sizeof(uint32_t)) + extra;
}

uint64_t state_leaves(uint64_t bytes, uint64_t page_bytes)
{
    uint64_t a_page =
        page_bytes + page_bytes / 16 + 1 + 2 * (PAGE_SLOTS * sizeof(float) + sizeof(uint32_t));
    return bytes > 2 * EXTRA_MOST ? (bytes - EXTRA_MOST) / a_page * page_bytes : bytes / 3;
}

bool state_open(struct cuda_backend *c, uint64_t n_pages, uint64_t page_bytes, struct error *e)
{
    uint64_t bytes = state_bytes(n_pages, page_bytes);
    c->changes_capacity = CHANGES;
    c->changes = (struct table_change *)malloc(CHANGES * sizeof *c->changes);
    c->pending = (uint64_t *)calloc(PENDING, sizeof *c->pending);
    c->n_flushes = 1; /* 0 marks a free entry of the hash */
    c->buddy = buddy_new(bytes);
    if (!c->changes || !c->pending || !c->buddy)
        return error_set_memory(e, "lists of state memory", bytes / 8);
    c->state_memory = (struct state_memory){c,          true,        state_take,    state_give,
                                            state_copy, state_clear, state_set_page};
    return cuda_take(c, &c->state, bytes, "scores and page tables", e);
}

void state_close(struct cuda_backend *c)
{
    cudaFree(c->state);
    buddy_free(c->buddy);
    free(c->given);
    free(c->changes);
    free(c->pending);
    c->state = NULL;
    c->buddy = NULL;
    c->given = NULL;
    c->changes = NULL;
    c->pending = NULL;
    c->n_given = c->given_capacity = c->n_changes = c->changes_capacity = 0;
}
