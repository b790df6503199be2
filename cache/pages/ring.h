/* Where a head that streams puts the token of position p, and what the newest query sees. Plain
 * arithmetic, any thread.
 *
 *   length == 0:  no ring: slots as they come
 *   length  > 0:  slot p for the sinks, then slots sinks .. sinks + length - 1 round and round
 *
 *   sinks   ring, length = window + PAGE_SLOTS
 *   0 1 2 3 | 4 5 6 7 8 9 ... |   -> position 4 + length goes where position 4 was
 *
 * In both cases a query at position t sees p <= t where p < sinks or t - p < window. A ring is a
 * page longer than its window, so that a wave of PAGE_SLOTS new tokens overwrites nothing that its
 * first token still sees. */
#ifndef WINNOW_CACHE_PAGES_RING_H
#define WINNOW_CACHE_PAGES_RING_H

#include <stdint.h>

struct ring {
    uint32_t sinks, window, length; /* no ring that hides nothing: window UINT32_MAX */
};

static inline uint32_t ring_slot(const struct ring *r, uint32_t position)
{
    if (r->length == 0 || position < r->sinks)
        return position;
    return r->sinks + (position - r->sinks) % r->length;
}

/* Slots that are used once n_tokens were written. */
static inline uint32_t ring_slots_used(const struct ring *r, uint32_t n_tokens)
{
    if (r->length == 0 || n_tokens < r->sinks + r->length)
        return n_tokens;
    return r->sinks + r->length;
}

/* The newest position below n_tokens that is in `slot`, which is used. */
uint32_t ring_position(const struct ring *r, uint32_t slot, uint32_t n_tokens);
/* Tokens of n_tokens that the newest query does not see any more. */
uint32_t ring_evicted(const struct ring *r, uint32_t n_tokens);

#endif
