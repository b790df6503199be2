/* Choosing survivors and victims: arithmetic on scores and positions alone, so that every backend
 * and every test can ask the same question. Rules of POLICIES.md: the larger score stays, of equal
 * scores the newer token, NaN counts as minus infinity; the first `sinks` positions and the
 * `recent` newest are never dropped. Pure functions, any thread. */
#ifndef WINNOW_CACHE_POLICY_SELECT_H
#define WINNOW_CACHE_POLICY_SELECT_H

#include "cache/policy/plan.h"

/* The share of its even part that allocation `adaptive_floor` lets each head keep whatever the
 * others' scores. */
#define ADAPTIVE_ALPHA 0.2
/* Allocation `adaptive` gives a head 0.8 of what it would win and 0.2 of its even part: in fifths
 * of a slot, and rounded to slots. */
#define ADAPTIVE_FIFTHS(n_won, even) (4 * (uint64_t)(n_won) + (even))
#define ADAPTIVE_ROUND(fifths)       ((uint32_t)((2 * (fifths) + 5) / 10))

/* One head at the moment of choosing. */
struct select_view {
    const int32_t *positions; /* [n] HOLE where nothing is */
    const float *scores;      /* [n] */
    uint32_t n;
    uint32_t n_tokens; /* N */
    uint32_t sinks, recent;
};

/* Score and position as one number: larger = rather kept. 0 is below every slot's. */
uint64_t select_key(float score, int32_t position);
bool select_is_protected(const struct select_view *v, uint32_t slot);

/* keep[i] = slot i stays, for at most `budget` slots in all: the protected and the best others.
 * scratch [n]. Returns how many stay. */
uint32_t select_survivors(const struct select_view *v, uint32_t budget, bool *keep,
                          uint64_t *scratch);
/* The same for the n_heads heads of a layer, which share n_heads * budget (AdaKV, arXiv 2407.11550).
 * F = budget - sinks - recent is what is free to choose a head. `how` is
 *
 *   adaptive         n_h of the best n_heads * F of all heads are head h's; it keeps its best
 *                    0.8 n_h + 0.2 F, rounded so that the layer's total is exact (the authors' code
 *                    rounds each head alone: sizes differ by at most one slot). A head that has
 *                    fewer keeps all of them, and the layer that much less
 *   adaptive_floor   each head keeps its best floor(0.2 F), and the rest goes to the best of all
 *
 * keep: one array after the other, of views[h].n. scratch [sum of n]; n_kept [n_heads]. False:
 * memory is short. */
bool select_adaptive(const struct select_view *views, uint32_t n_heads, enum plan_allocation how,
                     uint32_t budget, bool *keep, uint64_t *scratch, uint32_t *n_kept);
/* The `n` worst unprotected slots, worst first; fewer when there are no more. Returns how many. */
uint32_t select_victims(const struct select_view *v, uint32_t n, uint32_t *victims);

/* pooled[i] for slots with position < before: scores of the neighbours in order of position, within
 * (kernel - 1) / 2, averaged over `kernel` or their maximum; other slots keep their score. order
 * [n] scratch. */
void select_pool(const struct select_view *v, enum plan_pooling pooling, uint32_t kernel,
                 uint32_t before, float *pooled, uint32_t *order);

/* Uniform in [0, 1): a hash of all four, so it depends on nothing else. */
float select_random(int64_t seed, uint32_t layer, uint32_t kv_head, int32_t position);

/* Slots of a layer's heads under allocation `pyramid` at n_tokens (PyramidKV, arXiv 2406.02069): a
 * straight line from first to last layer, the last one holding 1/20 of the mean beside the
 * protected. As in the authors' code all layers hold `budget` where n_tokens is below twice what
 * they choose, 2 (budget - n_protected). */
uint32_t select_pyramid_budget(uint32_t layer, uint32_t n_layers, uint32_t budget,
                               uint32_t n_protected, uint32_t n_tokens);

/* Slots of a layer's heads under allocation `profile` with scorer window_attention (after
 * CompressKV, arXiv 2508.02401, which measures layers otherwise): each layer has the protected and
 * m = max(1, a fifth of what is free to choose under an even split, rounded down); the rest is
 * shared in proportion to retrieval[n_layers] >= 0, none getting more than the n_tokens there are:
 *
 *   B_l = n_protected + m + min(n_tokens - n_protected - m, c r_l), mean over l = budget
 *
 * Where everybody with r_l > 0 has all tokens (or nobody has r_l > 0) the others share evenly.
 * Rounded so that the total is exact. n_protected < budget < n_tokens. */
uint32_t select_profile_budget(const double *retrieval, uint32_t layer, uint32_t n_layers,
                               uint32_t budget, uint32_t n_protected, uint32_t n_tokens);

#endif
