/* What a sequence keeps of one (layer, KV head): its pages, how many slots it uses, and what its
 * policy has to remember. The cache owns it; a backend reads it and writes what is marked so. Engine
 * thread, and the backend's threads inside a call.
 *
 *   slot s is in pages[s / PAGE_SLOTS] at index s % PAGE_SLOTS
 *   a dropped slot is a hole: its position is HOLE, its number waits in `holes` for the next token
 *
 * Two arrays, because every token changes counts and hardly any token changes pointers:
 *
 *   head_slots  32 bytes, what the cache's arithmetic reads and writes for every token
 *   head_state  one cache line of pointers
 *
 * Scores are here and not in the pages, so that scoring never writes to a shared page. */
#ifndef WINNOW_CACHE_PAGES_HEAD_STATE_H
#define WINNOW_CACHE_PAGES_HEAD_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/policy/slot.h"

/* Numbers from quantised pages fit into halves (up to 65504), so that a backend can multiply
 * them as halves; larger ones are stored as the largest. For q8 this bounds the scale: 127 *
 * 515.5 = 65468. For q4 it bounds the number that a scale is made for: rounding the scale adds
 * 2^-11 of at most 130912, which is 64. */
#define PAGE_Q8_MOST 515.5f
#define PAGE_Q4_MOST 65408.0f

/* Counts that the backend keeps as it drops. */
struct head_counters {
    uint32_t n_holes;   /* holes that exist */
    uint32_t n_summary; /* tokens in the summary */
};

/* The part that every token changes: the host's counts, which never wait for the backend's. */
struct head_slots {
    uint32_t n_slots; /* used, holes included */
    uint32_t n_holes; /* once all rows that were placed have run */
    uint32_t n_drop;  /* slots dropped once the (one) row placed last has attended */
    uint32_t budget;  /* slots that stay; UINT32_MAX = all */
    uint32_t n_pages, capacity;
    uint32_t own_from; /* pages from this index on are held by nobody else */
    uint8_t ring;      /* index of its ring among the sequence's */
    bool fills_hole;   /* the row placed last fills a hole */
    bool is_whole;     /* it never drops anything */
    bool votes;        /* its scores count where the heads of a layer choose together */
};

/* Pointers to its pages and its state memory (state_memory.h). NULL where the plan needs none.
 * The backend decides where state memory is. */
struct head_state {
    uint32_t *pages; /* [capacity] host memory, the cache's own */
    uint32_t *table; /* [capacity] a copy of `pages`, where the backend cannot read host memory */
    struct head_counters *counters; /* never NULL; written by write, drop, compress */
    uint32_t *holes;                /* [n_holes] a stack: drop pushes, write pops */
    float *scores;     /* [capacity * PAGE_SLOTS] by scoring; 0 when the slot is written */
    uint32_t *history; /* [capacity * PAGE_SLOTS][HISTORY_WORDS] persistence only. Likewise */
    /* [2][head_dim] key_diff only. By write, drop, compress. The sum of k / |k| over the slots that
     * are held, and what a backend has still to take off it (drop on a GPU; write does it). */
    double *key_sum;
    float *summary; /* [2][head_dim] mean K, mean V of what was dropped; by drop and compress */
};

#endif
