/* Slots of a ring back to positions: see ring.h. */
#include "cache/pages/ring.h"

uint32_t ring_position(const struct ring *r, uint32_t slot, uint32_t n_tokens)
{
    if (r->length == 0 || slot < r->sinks)
        return slot;
    uint32_t newest = n_tokens - 1 - r->sinks, at = slot - r->sinks;
    uint32_t turns = (newest - at) / r->length; /* at <= newest, or the slot would not be used */
    return r->sinks + at + turns * r->length;
}

uint32_t ring_evicted(const struct ring *r, uint32_t n_tokens)
{
    uint32_t budget = r->sinks + r->window;
    return r->length == 0 || n_tokens <= budget ? 0 : n_tokens - budget;
}
