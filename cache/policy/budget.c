/* Slots of heads and pages of sequences: see budget.h. */
#include "cache/policy/budget.h"

#include "cache/policy/select.h"

bool budget_head_is_whole(const struct budget_shape *shape, const struct plan *p, uint32_t layer,
                          uint32_t kv_head)
{
    if (!plan_evicts(p))
        return true;
    return p->allocation == ALLOCATION_PROFILE && !plan_profile_votes(p) &&
           head_profile_is_whole(shape->profile, p->sparsity, layer, kv_head);
}

bool budget_head_votes(const struct budget_shape *shape, const struct plan *p, uint32_t layer,
                       uint32_t kv_head)
{
    return !plan_profile_votes(p) ||
           head_profile_is_whole(shape->profile, p->sparsity, layer, kv_head);
}

struct budget_ring budget_ring_of(const struct budget_shape *shape, const struct plan *p,
                                  uint32_t layer, uint32_t kv_head)
{
    if (p->prefill != PREFILL_STREAM || budget_head_is_whole(shape, p, layer, kv_head))
        return (struct budget_ring){0};
    return (struct budget_ring){p->sinks, p->recent, p->recent + PAGE_SLOTS};
}

/* Razor's window grows with the text; everybody else's was fixed when the plan was resolved. */
static bool window_grows(const struct plan *p)
{
    return p->allocation == ALLOCATION_PROFILE && !p->has_budget && p->min_window > 0;
}

uint32_t budget_recent(const struct plan *p, uint32_t n_tokens)
{
    if (!window_grows(p))
        return p->recent;
    return n_tokens / 5 > p->min_window ? n_tokens / 5 : p->min_window;
}

uint32_t budget_even(const struct plan *p)
{
    return p->allocation == ALLOCATION_PROFILE && !plan_profile_votes(p) ? p->other_budget
                                                                         : p->budget;
}

uint32_t budget_of_head(const struct budget_shape *shape, const struct plan *p, uint32_t layer,
                        uint32_t n_tokens)
{
    if (window_grows(p))
        return p->sinks + budget_recent(p, n_tokens);
    if (p->allocation == ALLOCATION_PYRAMID)
        return select_pyramid_budget(layer, shape->n_layers, p->budget, p->sinks + p->recent,
                                     n_tokens);
    if (plan_profile_votes(p))
        return select_profile_budget(shape->profile->retrieval, layer, shape->n_layers, p->budget,
                                     p->sinks + p->recent, n_tokens);
    return budget_even(p);
}

bool budget_is_exceeded(const struct plan *p, uint32_t n_tokens)
{
    if (!plan_evicts(p) || p->prefill == PREFILL_STREAM)
        return false;
    if (window_grows(p))
        return n_tokens > p->sinks + budget_recent(p, n_tokens);
    return n_tokens > budget_even(p);
}

/* ---- pages */

/* Slots that a head may use at any time after its prompt, until n_tokens. */
static uint64_t settled_slots(const struct budget_shape *shape, const struct plan *p,
                              uint32_t layer, uint32_t kv_head, uint64_t n_prompt,
                              uint64_t n_tokens)
{
    struct budget_ring ring = budget_ring_of(shape, p, layer, kv_head);
    uint64_t most = n_tokens;
    if (ring.ring)
        most = (uint64_t)ring.sinks + ring.ring;
    else if (!budget_head_is_whole(shape, p, layer, kv_head)) {
        bool exceeded = budget_is_exceeded(p, (uint32_t)n_prompt);
        uint64_t budget =
            exceeded || window_grows(p)
                ? budget_of_head(shape, p, layer, (uint32_t)(window_grows(p) ? n_tokens : n_prompt))
                : budget_even(p);
        if (p->decode == DECODE_EVICT) /* the newest token, before a slot is dropped for it */
            most = budget + 1;
        else if (exceeded)
            most = budget + (n_tokens - n_prompt);
    }
    return most < n_tokens ? most : n_tokens;
}

uint64_t budget_settled_pages(const struct budget_shape *shape, const struct plan *p,
                              uint64_t n_prompt, uint64_t n_tokens)
{
    uint64_t pages = 0;
    for (uint32_t l = 0; l < shape->n_layers; l++) {
        uint64_t slots = 0;
        for (uint32_t h = 0; h < shape->n_kv_heads; h++) {
            slots += settled_slots(shape, p, l, h, n_prompt, n_tokens);
            if (!plan_competes(p)) {
                pages += pages_of_slots(slots);
                slots = 0;
            }
        }
        /* Heads that compete may split the sum in any way, each with a last page that is not
         * full. */
        if (slots)
            pages += slots / PAGE_SLOTS + shape->n_kv_heads;
    }
    return pages;
}

uint64_t budget_bound_pages(const struct budget_shape *shape, const struct plan *p,
                            uint64_t n_prompt, uint64_t n_tokens)
{
    uint64_t settled = budget_settled_pages(shape, p, n_prompt, n_tokens), prompt = 0;
    for (uint32_t l = 0; l < shape->n_layers; l++)
        for (uint32_t h = 0; h < shape->n_kv_heads; h++) {
            struct budget_ring ring = budget_ring_of(shape, p, l, h);
            uint64_t slots = n_prompt;
            if (ring.ring && slots > (uint64_t)ring.sinks + ring.ring)
                slots = (uint64_t)ring.sinks + ring.ring;
            prompt += pages_of_slots(slots);
        }
    return settled > prompt ? settled : prompt;
}
