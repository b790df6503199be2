/* The pool of equal pages: which of them are free, and a reference count each. Engine thread.
 *
 * Memory is read fastest in long runs, so a long head gets pages with consecutive numbers where
 * it can: it takes a run of POOL_RUN free pages and goes on in it. Short heads share runs, so
 * that little memory is touched while little is needed. Nothing is reserved: other heads may
 * take what is left of a long head's run. */
#ifndef WINNOW_CACHE_PAGES_POOL_H
#define WINNOW_CACHE_PAGES_POOL_H

#include "config/base/error.h"

#define POOL_RUN     16
#define POOL_NO_PAGE UINT32_MAX

/* A run's neighbours in a ring of runs. */
struct pool_link {
    uint32_t next, before;
};

struct pool {
    uint32_t n_pages, n_free, n_runs;
    uint16_t *free; /* [n_runs] bit i: page POOL_RUN * run + i */
    /* [n_runs + 2] Two rings: runs that are wholly free, and partly free ones. The last two are
     * their heads. */
    struct pool_link *links;
    uint32_t *refs;     /* [n_pages] holders: tables of sequences, and the prefix index; 0 = free */
    bool *listed;       /* [n_pages] the prefix index holds it */
    uint64_t *taken_ns; /* [n_pages] `now_ns` when it was taken */
    uint8_t *giver;     /* [n_pages] policy of the sequence that released it last */
    uint32_t n_idle;    /* pages that only the prefix index holds */
    uint64_t now_ns;    /* set by the caller; no clock is read here */
    /* Called for every page that becomes free: the policy (preset_index) of the sequence that
     * released it last, and how long it was held. May be NULL. */
    void (*on_free)(void *context, uint32_t policy, uint64_t held_ns);
    void *free_context;
};

bool pool_init(struct pool *p, uint32_t n_pages, struct error *e);
void pool_clear(struct pool *p);
/* Takes a page for a head in which it follows `last` (POOL_NO_PAGE: none) and that will have at
 * least `n` pages. n_free > 0. */
uint32_t pool_take(struct pool *p, uint32_t last, uint32_t n);
void pool_share(struct pool *p, uint32_t page);
/* The prefix index takes and releases its reference. */
void pool_list(struct pool *p, uint32_t page);
void pool_unlist(struct pool *p, uint32_t page);
/* A sequence of this policy releases its reference; without holders the page is free. */
void pool_drop(struct pool *p, uint32_t page, uint32_t policy);

#endif
