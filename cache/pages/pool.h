/* The pool of equal pages: which of them are free, and a reference count each. Engine thread.
 *
 * Memory is read fastest in long runs, so a long head gets pages with consecutive numbers where it
 * can: it takes a run of POOL_RUN pages that is free as a whole and goes on in it. Short heads share
 * runs, that little memory is touched while little is needed. Nothing is set aside: what is left of
 * a long head's run is anybody's. */
#ifndef WINNOW_CACHE_PAGES_POOL_H
#define WINNOW_CACHE_PAGES_POOL_H

#include "config/base/error.h"

#define POOL_RUN     16
#define POOL_NO_PAGE UINT32_MAX

/* Of a run in a ring of runs. */
struct pool_link {
    uint32_t next, before;
};

struct pool {
    uint32_t n_pages, n_free, n_runs;
    uint16_t *free; /* [n_runs] bit i: page POOL_RUN * run + i */
    /* [n_runs + 2] Two rings of runs, of which all is free, or some; the last two are their ends. */
    struct pool_link *links;
    uint32_t *refs; /* [n_pages] sequences' tables, and the prefix index, that hold the page; 0 =
                       free */
    bool *listed;   /* [n_pages] the prefix index holds it */
    uint64_t *taken_ns; /* [n_pages] `now_ns` when it was taken */
    uint8_t *giver;     /* [n_pages] policy of the sequence that let go last */
    uint32_t n_idle;    /* pages that only the prefix index holds */
    uint64_t now_ns;    /* the caller's clock, as of its last look; no clock is read here */
    /* Told of every page that becomes free: the policy (preset_index) of the sequence that let go
     * of it last, and how long it was held. NULL: nobody is. */
    void (*on_free)(void *context, uint32_t policy, uint64_t held_ns);
    void *free_context;
};

bool pool_init(struct pool *p, uint32_t n_pages, struct error *e);
void pool_clear(struct pool *p);
/* For a head in which it follows `last` (POOL_NO_PAGE: nothing) and that will have `n` pages at least.
 * n_free > 0. */
uint32_t pool_take(struct pool *p, uint32_t last, uint32_t n);
void pool_share(struct pool *p, uint32_t page);
/* The prefix index takes hold of a page, and lets go. */
void pool_list(struct pool *p, uint32_t page);
void pool_unlist(struct pool *p, uint32_t page);
/* A sequence of this policy lets go; free again when nobody holds it. */
void pool_drop(struct pool *p, uint32_t page, uint32_t policy);

#endif
