/* The inside of cache and sequences, shared by cache.c and audit.c. */
#ifndef WINNOW_CACHE_SEQUENCE_TABLES_H
#define WINNOW_CACHE_SEQUENCE_TABLES_H

#include "cache/cache.h"
#include "cache/pool.h"

/* One head's pages: slot s is in pages[s / PAGE_SLOTS]. */
struct table {
    uint32_t *pages; /* [capacity] */
    uint32_t n_pages, capacity;
    uint32_t n_slots;
};

/* Where a plan puts the token of position p, and what the newest query sees:
 *
 *   ring == 0:  slot p, everything is seen
 *   ring  > 0:  slot p for the sinks, then slots sinks .. sinks + ring - 1 round and round;
 *               seen are the sinks and the `window` newest. ring = window + PAGE_SLOTS, so that a
 * wave of PAGE_SLOTS new tokens overwrites nothing that its first token still sees. */
struct placement {
    uint32_t sinks, window, ring;
};

struct cache_sequence {
    struct cache *cache;
    struct plan plan;
    struct placement placement;
    uint32_t n_tokens;
    uint32_t n_pages, n_pages_peak;
    struct table *tables;                   /* [n_layers][n_kv_heads] */
    struct cache_sequence *previous, *next; /* all sequences of the cache */
};

struct cache {
    struct pool pool;
    uint32_t n_layers, n_kv_heads;
    struct cache_sequence *first;
    uint32_t *copy_from, *copy_to; /* [n_copies], due before the next step */
    uint32_t n_copies, copies_capacity;
    uint64_t pages_returned, evicted_slots;
};

uint32_t placement_slot(const struct placement *p, uint32_t position);
uint32_t placement_slots_used(const struct placement *p, uint32_t n_tokens);
/* The newest position below n_tokens that lies in `slot`, which is used. */
uint32_t placement_position(const struct placement *p, uint32_t slot, uint32_t n_tokens);
/* Tokens of n_tokens that the newest query does not see any more. */
uint32_t placement_evicted(const struct placement *p, uint32_t n_tokens);

#endif
