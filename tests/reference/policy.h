/* What a policy keeps, by its definition: POLICIES.md written down in double, for one sequence, one
 * token at a time, every set of kept tokens a plain list of positions. Shares nothing with cache/
 * but the resolved plan and the hash that `random` is defined by.
 *
 * For every layer and KV head the transformer asks `policy_sees` before a token attends, tells the
 * probabilities with `policy_attended`, and calls `policy_end_layer` when all heads have. */
#ifndef WINNOW_TESTS_REFERENCE_POLICY_H
#define WINNOW_TESTS_REFERENCE_POLICY_H

#include "cache/policy/plan.h"

struct policy;

struct policy *policy_new(const struct plan *plan, const struct head_profile *profile,
                          uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim,
                          uint32_t max_tokens);
void policy_free(struct policy *p);
/* Tokens before `end` are the prompt. */
void policy_set_prompt(struct policy *p, uint32_t end);

/* Positions that the query at t sees, t included, ascending; valid until the next call. */
const uint32_t *policy_sees(struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t t,
                            uint32_t *n);
/* The summary of what this head dropped, or 0 tokens: k (rotated), v [head_dim]. */
uint32_t policy_summary(const struct policy *p, uint32_t layer, uint32_t kv_head, const double **k,
                        const double **v);
/* The key (rotated, as stored) and value of the token at t. */
void policy_store(struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t t, const double *k,
                  const double *v);
/* m[i] = probability of the i-th position that policy_sees told, mean over the group. */
void policy_attended(struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t t,
                     const double *m);
/* All heads of the layer have attended: what must go goes. */
void policy_end_layer(struct policy *p, uint32_t layer, uint32_t t);

/* What is held now, ascending. */
const uint32_t *policy_kept(const struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t *n);
/* The closest call so far in this head: the least distance between the worst kept and the best
 * dropped score, over their size. Infinite when nothing was dropped by score. */
double policy_margin(const struct policy *p, uint32_t layer, uint32_t kv_head);

#endif
