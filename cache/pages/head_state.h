/* What a sequence keeps of one (layer, KV head): its pages, how many slots it uses, and what its
 * policy has to remember. The cache owns it; a backend reads it and writes what is marked so. Engine
 * thread, and the backend's threads inside a call.
 *
 *   slot s is in pages[s / PAGE_SLOTS] at index s % PAGE_SLOTS
 *   a dropped slot is a hole: its position is HOLE, its number waits in `holes` for the next token
 *
 * Two arrays, because every token changes counts and hardly any changes where something is:
 *
 *   head_slots  32 bytes, what the cache's arithmetic reads and writes for every token
 *   head_state  one cache line of pointers
 *
 * Scores lie here and not in the pages, so that pages which several sequences share are never
 * written by scoring. */
#ifndef WINNOW_CACHE_PAGES_HEAD_STATE_H
#define WINNOW_CACHE_PAGES_HEAD_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/policy/slot.h"

/* What quantised pages hold stays among the halves (to 65504), so that a backend can multiply with
 * it as such; numbers beyond become the largest. Of q8 the largest scale: 127 * 515.5 = 65468. Of
 * q4 the largest number that a scale is made for: rounding the scale adds 2^-11 of at most 130912,
 * which is 64. */
#define PAGE_Q8_MOST 515.5f
#define PAGE_Q4_MOST 65408.0f

/* What dropping counts, beside what it writes. */
struct head_counters {
    uint32_t n_holes;   /* holes that exist */
    uint32_t n_summary; /* tokens in the summary */
};

/* What a token changes of a head: the host's counts, which never wait for the backend's. */
struct head_slots {
    uint32_t n_slots; /* used, holes included */
    uint32_t n_holes; /* once all rows that were placed have run */
    uint32_t n_drop;  /* slots that go when the (one) row that was placed last has attended */
    uint32_t budget;  /* slots that stay; UINT32_MAX = all */
    uint32_t n_pages, capacity;
    uint32_t own_from; /* pages from this index on are held by nobody else */
    uint8_t ring;      /* index of its ring among the sequence's */
    bool fills_hole;   /* the row that was placed last goes where a dropped one was */
    bool is_whole;     /* it never drops anything */
    bool votes;        /* its scores count where the heads of a layer choose together */
};

/* Where its pages and its state memory (state_memory.h) are. What the plan does not need is NULL;
 * where state memory lies is the backend's business. */
struct head_state {
    uint32_t *pages; /* [capacity] host memory, the cache's own */
    uint32_t *table; /* [capacity] the pages once more, where the backend cannot read host memory */
    struct head_counters *counters; /* never NULL; written by write, drop, compress */
    uint32_t *holes;                /* [n_holes] the last is filled next; by drop, taken by write */
    float *scores; /* [capacity * PAGE_SLOTS] by scoring; a slot's begins at 0 when it is written */
    uint32_t *history; /* [capacity * PAGE_SLOTS][HISTORY_WORDS] persistence only. Likewise */
    double *key_sum;   /* [head_dim] of k / |k| over all tokens; key_diff only. By write */
    float *summary;    /* [2][head_dim] mean K, mean V of what was dropped; by drop and compress */
};

#endif
