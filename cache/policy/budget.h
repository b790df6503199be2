/* How many slots each head may hold, and so how many pages a sequence: arithmetic on plans,
 * heads and lengths. Pure functions, any thread. */
#ifndef WINNOW_CACHE_POLICY_BUDGET_H
#define WINNOW_CACHE_POLICY_BUDGET_H

#include "cache/policy/plan.h"

/* The heads that a budget is shared among. */
struct budget_shape {
    uint32_t n_layers, n_kv_heads;
    const struct head_profile *profile; /* of plans with allocation `profile`; else NULL */
};

/* The slots of a head that streams: its first `sinks` tokens, then `ring` slots round and round, of
 * which the newest query sees the `window` newest. ring == 0: the head does not stream. */
struct budget_ring {
    uint32_t sinks, window, ring;
};

/* Whether the head never drops anything. */
bool budget_head_is_whole(const struct budget_shape *shape, const struct plan *p, uint32_t layer,
                          uint32_t kv_head);
/* Whether the head's scores count where its layer chooses together. In a layer without such a
 * head all count. */
bool budget_head_votes(const struct budget_shape *shape, const struct plan *p, uint32_t layer,
                       uint32_t kv_head);
struct budget_ring budget_ring_of(const struct budget_shape *shape, const struct plan *p,
                                  uint32_t layer, uint32_t kv_head);

/* Slots of a head that is not whole, before the end of a prompt has shared them out: its budget
 * if the split stays even. */
uint32_t budget_even(const struct plan *p);
/* Newest tokens that are never dropped, at n_tokens. */
uint32_t budget_recent(const struct plan *p, uint32_t n_tokens);
/* Slots of a head that is not whole when its prompt ends at n_tokens (under `adaptive` the mean).
 */
uint32_t budget_of_head(const struct budget_shape *shape, const struct plan *p, uint32_t layer,
                        uint32_t n_tokens);
/* Whether a prompt that ends at n_tokens is compressed at all. */
bool budget_is_exceeded(const struct plan *p, uint32_t n_tokens);

/* Pages of a sequence whose prompt has n_prompt tokens: the most that it ever holds until
 * n_tokens, and the most that it holds after its prompt, when compression has given the rest
 * back. */
uint64_t budget_bound_pages(const struct budget_shape *shape, const struct plan *p,
                            uint64_t n_prompt, uint64_t n_tokens);
uint64_t budget_settled_pages(const struct budget_shape *shape, const struct plan *p,
                              uint64_t n_prompt, uint64_t n_tokens);

#endif
