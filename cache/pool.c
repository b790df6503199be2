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
    if (!p->free || !p->refs || !p->listed) {
        pool_clear(p);
        return error_set_memory(e, "the page pool", (uint64_t)n_pages * 8);
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
    *p = (struct pool){0};
}

uint32_t pool_take(struct pool *p)
{
    assert(p->n_free > 0);
    uint32_t page = p->free[--p->n_free];
    assert(p->refs[page] == 0);
    p->refs[page] = 1;
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

void pool_unlist(struct pool *p, uint32_t page)
{
    assert(p->listed[page]);
    p->n_idle -= p->refs[page] == 1;
    p->listed[page] = false;
    pool_drop(p, page);
}

void pool_drop(struct pool *p, uint32_t page)
{
    assert(p->refs[page] > 0);
    if (--p->refs[page] == 0)
        p->free[p->n_free++] = page;
    else
        p->n_idle += p->listed[page] && p->refs[page] == 1;
}
