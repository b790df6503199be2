/* The pool of pages: see pool.h. */
#include "cache/pool.h"

#include <assert.h>
#include <stdlib.h>

bool pool_init(struct pool *p, uint32_t n_pages, struct error *e)
{
    *p = (struct pool){.n_pages = n_pages, .n_free = n_pages};
    p->free = malloc((size_t)n_pages * sizeof *p->free);
    p->refs = calloc(n_pages, sizeof *p->refs);
    p->listed = calloc(n_pages, sizeof *p->listed);
    p->taken_ns = calloc(n_pages, sizeof *p->taken_ns);
    p->giver = calloc(n_pages, sizeof *p->giver);
    if (!p->free || !p->refs || !p->listed || !p->taken_ns || !p->giver) {
        pool_clear(p);
        return error_set_memory(e, "the page pool", (uint64_t)n_pages * 18);
    }
    for (uint32_t i = 0; i < n_pages; i++)
        p->free[i] = n_pages - 1 - i;
    return true;
}

void pool_clear(struct pool *p)
{
    free(p->free);
    free(p->refs);
    free(p->listed);
    free(p->taken_ns);
    free(p->giver);
    *p = (struct pool){0};
}

uint32_t pool_take(struct pool *p)
{
    assert(p->n_free > 0);
    uint32_t page = p->free[--p->n_free];
    assert(p->refs[page] == 0);
    p->refs[page] = 1;
    p->taken_ns[page] = p->now_ns;
    return page;
}

void pool_share(struct pool *p, uint32_t page)
{
    assert(p->refs[page] > 0);
    p->n_idle -= p->listed[page] && p->refs[page] == 1;
    p->refs[page]++;
}

void pool_list(struct pool *p, uint32_t page)
{
    assert(p->refs[page] > 0 && !p->listed[page]);
    p->refs[page]++;
    p->listed[page] = true;
}

static void let_go(struct pool *p, uint32_t page)
{
    assert(p->refs[page] > 0);
    if (--p->refs[page] > 0) {
        p->n_idle += p->listed[page] && p->refs[page] == 1;
        return;
    }
    p->free[p->n_free++] = page;
    if (p->on_free)
        p->on_free(p->free_context, p->giver[page], p->now_ns - p->taken_ns[page]);
}

void pool_unlist(struct pool *p, uint32_t page)
{
    assert(p->listed[page]);
    p->n_idle -= p->refs[page] == 1;
    p->listed[page] = false;
    let_go(p, page);
}

void pool_drop(struct pool *p, uint32_t page, uint32_t policy)
{
    p->giver[page] = (uint8_t)policy;
    let_go(p, page);
}
