/* The pool of equal pages: a stack of free page numbers and a reference count each. Engine thread.
 */
#ifndef WINNOW_CACHE_POOL_H
#define WINNOW_CACHE_POOL_H

#include "config/error.h"

struct pool {
    uint32_t n_pages, n_free;
    uint32_t *free; /* [n_pages]; the first n_free are free pages, the last of them is taken next */
    uint32_t *refs; /* [n_pages] sequences' tables, and the prefix index, that hold the page; 0 =
                       free */
    bool *listed;   /* [n_pages] the prefix index holds it */
    uint32_t n_idle; /* pages that only the prefix index holds */
};

bool pool_init(struct pool *p, uint32_t n_pages, struct error *e);
void pool_clear(struct pool *p);
uint32_t pool_take(struct pool *p); /* n_free > 0 */
void pool_share(struct pool *p, uint32_t page);
/* The prefix index takes hold of a page, and lets go. */
void pool_list(struct pool *p, uint32_t page);
void pool_unlist(struct pool *p, uint32_t page);
void pool_drop(struct pool *p, uint32_t page); /* free again when nobody holds it */

#endif
