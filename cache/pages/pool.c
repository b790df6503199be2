/* The pool of pages: see pool.h. */
#include "cache/pages/pool.h"

#include <assert.h>
#include <stdlib.h>

/* The heads of the two rings. */
static uint32_t whole(const struct pool *p)
{
    return p->n_runs;
}

static uint32_t broken(const struct pool *p)
{
    return p->n_runs + 1;
}

static void link_behind(struct pool *p, uint32_t run, uint32_t before)
{
    const uint32_t next = p->links[before].next;
    p->links[run] = (struct pool_link){next, before};
    p->links[before].next = p->links[next].before = run;
}

static void unlink_run(struct pool *p, uint32_t run)
{
    const struct pool_link at = p->links[run];
    p->links[at.before].next = at.next;
    p->links[at.next].before = at.before;
}

bool pool_init(struct pool *p, uint32_t n_pages, struct error *e)
{
    *p = (struct pool){.n_pages = n_pages,
                       .n_free = n_pages,
                       .n_runs = (uint32_t)(((uint64_t)n_pages + POOL_RUN - 1) / POOL_RUN)};
    p->free = malloc(p->n_runs * sizeof *p->free);
    p->links = malloc((p->n_runs + (size_t)2) * sizeof *p->links);
    p->refs = calloc(n_pages, sizeof *p->refs);
    p->listed = calloc(n_pages, sizeof *p->listed);
    p->taken_ns = calloc(n_pages, sizeof *p->taken_ns);
    p->giver = calloc(n_pages, sizeof *p->giver);
    if (!p->free || !p->links || !p->refs || !p->listed || !p->taken_ns || !p->giver) {
        pool_clear(p);
        return error_set_memory(e, "the page pool", (uint64_t)n_pages * 15);
    }
    for (uint32_t end = whole(p); end <= broken(p); end++)
        p->links[end] = (struct pool_link){end, end};
    for (uint32_t run = 0; run < p->n_runs; run++) {
        const uint32_t n = n_pages - run * POOL_RUN;
        p->free[run] = n >= POOL_RUN ? UINT16_MAX : (uint16_t)((1u << n) - 1);
        const uint32_t end = n >= POOL_RUN ? whole(p) : broken(p);
        link_behind(p, run, p->links[end].before);
    }
    return true;
}

void pool_clear(struct pool *p)
{
    free(p->free);
    free(p->links);
    free(p->refs);
    free(p->listed);
    free(p->taken_ns);
    free(p->giver);
    *p = (struct pool){0};
}

/* Partly free runs: most recently freed first, those that a long head has just begun last, so
 * that it can go on in them for a while. */
static void take(struct pool *p, uint32_t page)
{
    const uint32_t run = page / POOL_RUN;
    const bool was_whole = p->free[run] == UINT16_MAX;
    p->free[run] &= (uint16_t) ~(1u << page % POOL_RUN);
    if (was_whole || p->free[run] == 0)
        unlink_run(p, run);
    if (was_whole)
        link_behind(p, run, p->links[broken(p)].before);
    p->n_free--;
}

static void give(struct pool *p, uint32_t page)
{
    const uint32_t run = page / POOL_RUN;
    if (p->free[run] != 0)
        unlink_run(p, run);
    p->free[run] |= (uint16_t)(1u << page % POOL_RUN);
    link_behind(p, run, p->free[run] == UINT16_MAX ? whole(p) : broken(p));
    p->n_free++;
}

uint32_t pool_take(struct pool *p, uint32_t last, uint32_t n)
{
    assert(p->n_free > 0);
    const uint32_t next = last + 1, a_whole = p->links[whole(p)].next,
                   a_broken = p->links[broken(p)].next;
    uint32_t page;
    if (last != POOL_NO_PAGE && next % POOL_RUN != 0 &&
        p->free[next / POOL_RUN] >> next % POOL_RUN & 1) {
        page = next;
    } else {
        const bool fresh = a_broken == broken(p) || (n >= POOL_RUN && a_whole != whole(p));
        const uint32_t run = fresh ? a_whole : a_broken;
        page = run * POOL_RUN + (uint32_t)__builtin_ctz(p->free[run]);
    }
    assert(p->refs[page] == 0);
    take(p, page);
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
    give(p, page);
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
