/* Where new tokens of a sequence go and what they may see, for all layers and KV heads at once: the
 * answer of cache_place, made in one walk over the heads. It points into the sequence and is valid
 * until the next cache_place or free of this sequence; only cache_settle changes it (of the layer
 * that it settles). Engine thread, and the backend's threads inside a call.
 *
 * A head is named by its number among all of the sequence, layer * n_kv_heads + KV head.
 *
 *   token i = 0 .. n - 1, position first + i, slot placement_slot(p, head, i)
 *
 * Rows that must not be written together go in waves: the rows of a wave are written, then
 * attend, then the next wave is written. `n_behind` counts tokens of later waves: they have
 * their slots already, but nothing may be read there yet. */
#ifndef WINNOW_CACHE_PAGES_PLACEMENT_H
#define WINNOW_CACHE_PAGES_PLACEMENT_H

#include "cache/pages/head_state.h"
#include "cache/pages/ring.h"

/* The slot of a token that fills a hole: `write` takes the head's newest one. */
#define SLOT_OF_HOLE UINT32_MAX

/* What the policy wants left in head_state by the rows that attend. */
enum cache_score {
    CACHE_SCORE_NONE,
    CACHE_SCORE_SUM,    /* add the mean over the group */
    CACHE_SCORE_LAST,   /* the newest query's replaces all others */
    CACHE_SCORE_HISTORY /* a bit in the history */
};
/* What is dropped once they have attended. */
enum cache_work { CACHE_WORK_NONE, CACHE_WORK_COMPRESS, CACHE_WORK_DROP };

struct cache_sequence;

struct placement {
    struct cache_sequence *sequence;
    uint32_t first, n;         /* positions first .. first + n - 1 */
    uint32_t wave_rows;        /* of them that may be written before they attend */
    uint32_t n_heads;          /* layers x KV heads */
    struct head_slots *slots;  /* [n_heads] as they are once all n tokens are there */
    struct head_state *states; /* [n_heads] */
    const struct ring *rings;  /* by head_slots.ring */
    bool sink_query; /* slots of the sinks are seen by a second rotation of the query ... */
    int32_t last_sink_position; /* ... to position min(t, this) */
    enum cache_score score;     /* what attention leaves in the states ... */
    uint32_t first_scored;      /* ... for tokens [first_scored, n) */
    enum cache_work work;       /* after the last token */
};

/* What one query may see of one head, as a small value:
 *   slot s is in page pages[s / PAGE_SLOTS] at index s % PAGE_SLOTS, holds original position p;
 *   a query at position t sees it iff p <= t && (p < n_sinks || t - p < window).
 * Slots in [0, n_slots) are valid data, slots beyond are never read. No order of positions is
 * promised. Pages hold finite numbers only in used slots: a masked or unused slot must never be
 * multiplied into a sum. */
struct head_view {
    const uint32_t *pages; /* [ceil(n_slots / PAGE_SLOTS)] owned by the cache */
    uint32_t n_slots;
    uint32_t n_sinks;
    uint32_t window; /* UINT32_MAX: everything before */
};

/* Used slots of a head while n_behind tokens are still to be written. */
static inline uint32_t placement_n_slots(const struct placement *p, uint32_t head,
                                         uint32_t n_behind)
{
    const struct head_slots *slots = &p->slots[head];
    const struct ring *ring = &p->rings[slots->ring];
    return ring->length ? ring_slots_used(ring, p->first + p->n - n_behind)
                        : slots->n_slots - n_behind;
}

static inline struct head_view placement_view(const struct placement *p, uint32_t head,
                                              uint32_t n_behind)
{
    const struct ring *ring = &p->rings[p->slots[head].ring];
    struct head_view v;
    v.pages = p->states[head].pages;
    v.n_slots = placement_n_slots(p, head, n_behind);
    v.n_sinks = ring->sinks;
    v.window = ring->window;
    return v;
}

/* The slot of token i < n, or SLOT_OF_HOLE. */
static inline uint32_t placement_slot(const struct placement *p, uint32_t head, uint32_t i)
{
    const struct head_slots *slots = &p->slots[head];
    const struct ring *ring = &p->rings[slots->ring];
    if (slots->fills_hole)
        return SLOT_OF_HOLE;
    return ring->length ? ring_slot(ring, p->first + i) : slots->n_slots - p->n + i;
}

#endif
