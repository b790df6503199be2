/* Positions to slots and back: see struct placement. */
#include "cache/pages/sequence_tables.h"

uint32_t placement_slot(const struct placement *p, uint32_t position)
{
    if (p->ring == 0 || position < p->sinks)
        return position;
    return p->sinks + (position - p->sinks) % p->ring;
}

uint32_t placement_slots_used(const struct placement *p, uint32_t n_tokens)
{
    if (p->ring == 0 || n_tokens < p->sinks + p->ring)
        return n_tokens;
    return p->sinks + p->ring;
}

uint32_t placement_position(const struct placement *p, uint32_t slot, uint32_t n_tokens)
{
    if (p->ring == 0 || slot < p->sinks)
        return slot;
    uint32_t newest = n_tokens - 1 - p->sinks, at = slot - p->sinks;
    uint32_t turns = (newest - at) / p->ring; /* at <= newest, or the slot would not be used */
    return p->sinks + at + turns * p->ring;
}

uint32_t placement_evicted(const struct placement *p, uint32_t n_tokens)
{
    uint32_t budget = p->sinks + p->window;
    return p->ring == 0 || n_tokens <= budget ? 0 : n_tokens - budget;
}
