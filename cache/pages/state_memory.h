/* Memory for what policies remember of a head (scores, holes, summaries; head_state.h). The
 * cache takes, copies, clears and gives it back, and never reads it: on a GPU it is device
 * memory, and calls take effect in the order of the engine's operations, not at once. Engine
 * thread. */
#ifndef WINNOW_CACHE_PAGES_STATE_MEMORY_H
#define WINNOW_CACHE_PAGES_STATE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_memory {
    void *context;
    bool mirrors_tables; /* the backend cannot read head_state.pages: it gets them in `table` */
    /* Aligned to 64 bytes, not initialised; NULL: no memory is left. */
    void *(*take)(void *context, size_t bytes);
    void (*give)(void *context, void *p); /* NULL is allowed */
    void (*copy)(void *context, void *to, const void *from, size_t bytes);
    void (*clear)(void *context, void *p, size_t bytes);
    void (*set_page)(void *context, uint32_t *to, uint32_t page); /* one entry of a table */
};

/* The host's own memory, for backends that compute there. */
const struct state_memory *state_memory_host(void);

#endif
