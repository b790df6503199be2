/* From what was asked for to a plan: which axes go together, and how shares and defaults become
 * slots. Pure functions. Every refusal has a sentence. See plan.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cache/policy/axis.h"
#include "cache/policy/preset.h"

/* ---- combinations that make no sense */

static bool refuse(struct error *e, const char *key, const char *why)
{
    char path[64];
    snprintf(path, sizeof path, "kv_policy.%s", key);
    return error_set(e, "invalid_kv_policy", path, "%s", why);
}

/* Refuses keys that this policy does not read. */
static bool check_given(const struct plan_asked *asked, struct error *e)
{
    for (uint32_t i = 0; i < N_PLAN_AXES; i++) {
        const struct axis *axis = &plan_axis_table[i];
        if (!plan_was_given(asked, i) || !axis->reader->who || axis->reader->reads(&asked->axes))
            continue;
        char path[64];
        snprintf(path, sizeof path, "kv_policy.%s", axis->key);
        return error_set(e, "invalid_kv_policy", path,
                         "%s means nothing to this policy: only %s reads it", path,
                         axis->reader->who);
    }
    return true;
}

static bool check_stream(const struct plan *p, struct error *e)
{
    if (p->scorer != SCORER_RECENCY)
        return error_set(e, "invalid_kv_policy", "kv_policy.prefill",
                         "prefill 'stream' never sees the whole prompt, so it needs the scorer "
                         "'recency', not '%s'",
                         plan_scorer_name(p->scorer));
    if (p->decode != DECODE_EVICT)
        return refuse(e, "decode",
                      "after prefill 'stream' the window goes on sliding: decode must "
                      "be 'evict'");
    if (p->remnant != REMNANT_NONE)
        return refuse(e, "remnant",
                      "prefill 'stream' drops tokens before anybody could average "
                      "them: remnant must be 'none', or prefill 'full'");
    if (p->allocation != ALLOCATION_UNIFORM && p->allocation != ALLOCATION_PROFILE)
        return refuse(e, "allocation",
                      "prefill 'stream' gives every head the same window, or "
                      "treats them by 'profile'");
    return true;
}

/* One choice for all heads of a layer needs heads that hold the same tokens. */
static bool may_share_layer(const struct plan *p)
{
    return plan_profile_votes(p) ||
           (p->allocation == ALLOCATION_UNIFORM && p->prefill == PREFILL_FULL);
}

static bool check_axes(const struct plan_asked *asked, const struct plan *p,
                       const struct plan_limits *limits, struct error *e)
{
    if (!plan_evicts(p))
        return true;
    if (p->scorer == SCORER_NONE)
        return refuse(e, "scorer", "a policy that drops something needs a scorer to choose it");
    if (p->prefill == PREFILL_STREAM && !check_stream(p, e))
        return false;
    if (p->positions == POSITIONS_CACHE &&
        (p->prefill != PREFILL_STREAM || p->allocation != ALLOCATION_UNIFORM))
        return refuse(e, "positions",
                      "positions 'cache' need prefill 'stream' and allocation "
                      "'uniform': only there are kept tokens in two runs, sinks "
                      "and window");
    if (plan_competes(p) && p->scorer == SCORER_RECENCY)
        return refuse(e, "allocation",
                      "under the scorer 'recency' all heads score alike, so "
                      "they have nothing to compete for; use 'uniform'");
    if (p->allocation == ALLOCATION_PROFILE && !limits->profile)
        return error_set(e, "invalid_kv_policy", "kv_policy.name",
                         "policy '%s' decides by head, which needs a head profile: make one with "
                         "`winnow calibrate` and start the server with --head-profile FILE",
                         p->preset->name);
    if (plan_profile_votes(p) && p->share == SHARE_HEAD && plan_was_given(asked, PLAN_AXIS_share))
        return refuse(e, "share",
                      "under 'window_attention' with allocation 'profile' the retrieval heads "
                      "choose for their layer: share must be 'layer'");
    if (p->share == SHARE_LAYER && !may_share_layer(p))
        return refuse(e, "share",
                      "share 'layer' makes one choice for all heads of a layer, which "
                      "needs allocation 'uniform' and prefill 'full'");
    return check_given(asked, e);
}

/* ---- slots */

/* Whether the budget is the preset's own number: then it may be lowered to what the server
 * allows. */
static bool budget_is_default(const struct plan_asked *asked)
{
    return asked->preset->axes.has_budget && !plan_was_given(asked, PLAN_AXIS_budget);
}

static bool recent_is_default(const struct plan_asked *asked)
{
    return !plan_was_given(asked, PLAN_AXIS_recent);
}

static bool too_small(const struct plan *p, struct error *e)
{
    return error_set(
        e, "invalid_kv_policy", "kv_policy.budget",
        "budget %u is too small: it must hold %u sinks, %u recent and the newest token", p->budget,
        p->sinks, p->recent);
}

static void resolve_share(struct plan *p, uint32_t n_prompt)
{
    double slots = ceil(p->budget_share * n_prompt);
    p->budget = slots < 1 ? 1 : (uint32_t)slots;
}

/* Under `stream` the rest of the budget is the window, so a stated `recent` must be just that. */
static bool resolve_stream(const struct plan_asked *asked, struct plan *p, struct error *e)
{
    if (p->recent && budget_is_default(asked))
        p->budget = p->sinks + p->recent;
    if (p->budget < p->sinks + p->recent + (p->recent ? 0 : 1))
        return too_small(p, e);
    if (p->recent && p->recent != p->budget - p->sinks)
        return error_set(e, "invalid_kv_policy", "kv_policy.recent",
                         "recent %u does not agree with budget %u and %u sinks: all slots but the "
                         "sinks are recent, which "
                         "makes %u",
                         p->recent, p->budget, p->sinks, p->budget - p->sinks);
    p->recent = p->budget - p->sinks;
    return true;
}

static bool resolve_recent(const struct plan_asked *asked, struct plan *p, struct error *e)
{
    if (p->prefill == PREFILL_STREAM)
        return resolve_stream(asked, p, e);
    if (scorer_has_window(scorer_at(p->scorer))) {
        if (p->vote_queries > p->budget)
            return error_set(e, "invalid_kv_policy", "kv_policy.window",
                             "window %u is above budget %u: the window itself is always kept",
                             p->vote_queries, p->budget);
        if (recent_is_default(asked) || p->recent < p->vote_queries)
            p->recent = p->vote_queries;
    } else if (recent_is_default(asked) && asked->preset->recent_is_half) {
        p->recent = p->budget / 2;
    }
    if ((uint64_t)p->budget < (uint64_t)p->sinks + p->recent + 1)
        return too_small(p, e);
    const uint32_t free_choice = p->budget - p->sinks - p->recent;
    if (p->interval == 0 && p->scorer == SCORER_PERSISTENCE) /* as the paper does */
        p->interval = p->budget / 2 < free_choice ? p->budget / 2 : free_choice;
    else if (p->interval == 0)
        p->interval = 1;
    if (p->interval > free_choice)
        return error_set(e, "invalid_kv_policy", "kv_policy.interval",
                         "interval %u is more than the %u slots that budget %u leaves beside %u "
                         "sinks and %u recent",
                         p->interval, free_choice, p->budget, p->sinks, p->recent);
    return true;
}

/* Heads that are not whole get sinks and a window: of the size that the preset states, or of what
 * makes the mean over all heads the budget at the prompt's length. */
static bool resolve_profile(struct plan *p, uint32_t n_prompt, const struct plan_limits *limits,
                            struct error *e)
{
    const struct head_profile *profile = limits->profile;
    if (!p->has_budget) {
        if (p->min_window) {
            p->recent = n_prompt / 5 > p->min_window ? n_prompt / 5 : p->min_window;
        } else if (p->recent == 0) {
            return error_set(e, "invalid_kv_policy", "kv_policy.recent",
                             "recent is 0: a head that is not whole needs a window");
        }
        p->other_budget = p->sinks + p->recent;
        p->budget = p->other_budget;
        return true;
    }
    double n_heads = (double)profile->n_layers * profile->n_kv_heads,
           n_whole = head_profile_n_whole(profile, p->sparsity),
           whole = n_prompt < p->budget ? p->budget : n_prompt,
           left = n_heads > n_whole ? (p->budget * n_heads - whole * n_whole) / (n_heads - n_whole)
                                    : p->budget;
    if (left < p->sinks + 1.0)
        return error_set(e, "invalid_kv_policy", "kv_policy.budget",
                         "budget %u is too small: %.0f of %.0f heads keep all %u prompt tokens, "
                         "which leaves less than %u sinks and one recent slot for each of the "
                         "others",
                         p->budget, n_whole, n_heads, n_prompt, p->sinks);
    p->other_budget = (uint32_t)left;
    p->recent = p->other_budget - p->sinks;
    p->min_window = 0;
    return true;
}

static bool resolve_slots(const struct plan_asked *asked, struct plan *p, uint32_t n_prompt,
                          const struct plan_limits *limits, struct error *e)
{
    if (plan_profile_votes(p)) {
        p->share = SHARE_LAYER;
        p->min_window = 0;
        if (!p->has_budget)
            return error_set(e, "invalid_kv_policy", "kv_policy.budget",
                             "budget is missing: under 'window_attention' with allocation "
                             "'profile' no head is whole, the layers share a budget");
        return resolve_recent(asked, p, e);
    }
    if (p->interval == 0 && p->allocation == ALLOCATION_PROFILE)
        p->interval = 1;
    return p->allocation == ALLOCATION_PROFILE ? resolve_profile(p, n_prompt, limits, e)
                                               : resolve_recent(asked, p, e);
}

/* What the server says. */
static bool resolve_storage(const struct plan_asked *asked, struct plan *p,
                            const struct plan_limits *limits, struct error *e)
{
    if (p->storage != limits->storage && plan_was_given(asked, PLAN_AXIS_storage))
        return error_set(e, "invalid_kv_policy", "kv_policy.storage",
                         "storage '%s' is not what this server's cache is made of ('%s')",
                         plan_storage_name(p->storage), plan_storage_name(limits->storage));
    p->storage = limits->storage;
    return true;
}

static bool over_limit(const struct plan *p, const struct plan_limits *limits, struct error *e)
{
    error_set(e, "kv_budget_exceeds_limit", "kv_policy.budget",
              "budget %u is above this server's cap %u", p->budget, limits->max_budget);
    if (e)
        e->max_budget = limits->max_budget;
    return false;
}

/* Whether heads that keep everything take the whole share, whatever the prompt's length. */
static bool whole_heads_take_all(const struct plan *p, const struct plan_limits *limits)
{
    const struct head_profile *profile = limits->profile;
    return p->allocation == ALLOCATION_PROFILE && !plan_profile_votes(p) &&
           p->budget_share * profile->n_layers * profile->n_kv_heads <=
               head_profile_n_whole(profile, p->sparsity);
}

/* A share of a short prompt can be less than what the policy always keeps. Then nothing needs to be
 * dropped, so it gets the least budget that holds this. False: no budget does; the plan is changed. */
static bool raise_budget(const struct plan_asked *asked, struct plan *p, uint32_t n_prompt,
                         const struct plan_limits *limits)
{
    const struct plan before = *p;
    struct error ignored;
    uint64_t low = p->budget, high = 2 * ((uint64_t)p->sinks + p->recent + p->vote_queries +
                                          p->interval + n_prompt + 1);
    if (high > PLAN_LARGEST_BUDGET)
        high = PLAN_LARGEST_BUDGET;
    while (low < high) { /* low is too small */
        const uint64_t middle = low + (high - low) / 2;
        *p = before;
        p->budget = (uint32_t)middle;
        if (middle > low && resolve_slots(asked, p, n_prompt, limits, &ignored))
            high = middle;
        else if (middle > low)
            low = middle;
        else
            break;
    }
    *p = before;
    p->budget = (uint32_t)high;
    return resolve_slots(asked, p, n_prompt, limits, &ignored);
}

static bool resolve_budget(const struct plan_asked *asked, struct plan *p, uint32_t n_prompt,
                           const struct plan_limits *limits, struct error *e)
{
    if (p->budget_share > 0)
        resolve_share(p, n_prompt);
    else if (budget_is_default(asked) && p->positions == POSITIONS_CACHE &&
             p->budget > limits->n_ctx_train)
        p->budget = limits->n_ctx_train;
    const struct plan before = *p;
    struct error why; /* *e stays as it is when the share can be raised */
    if (!resolve_slots(asked, p, n_prompt, limits, &why)) {
        *p = before;
        if (p->budget_share == 0 || whole_heads_take_all(p, limits) ||
            !raise_budget(asked, p, n_prompt, limits)) {
            if (e)
                *e = why;
            return false;
        }
    }
    if (limits->max_budget && p->has_budget && p->budget > limits->max_budget) {
        if (!budget_is_default(asked))
            return over_limit(p, limits, e);
        *p = before;
        p->recent = p->prefill == PREFILL_STREAM ? 0 : p->recent;
        p->budget = limits->max_budget;
        if (!resolve_slots(asked, p, n_prompt, limits, e))
            return false;
    }
    if (p->positions == POSITIONS_CACHE && p->budget > limits->n_ctx_train)
        return error_set(e, "invalid_kv_policy", "kv_policy.budget",
                         "budget %u is above the %u positions that the model was trained on, which "
                         "cache-relative positions "
                         "cannot pass",
                         p->budget, limits->n_ctx_train);
    return true;
}

#define VALUE(type, field, ...) .field = asked->axes.field,

const struct plan *plan_resolve(const struct plan_asked *asked, uint32_t n_prompt,
                                const struct plan_limits *limits, struct error *e)
{
    struct plan *p = malloc(sizeof *p);
    if (!p) {
        error_set_memory(e, "a cache policy", sizeof *p);
        return NULL;
    }
    *p = (struct plan){PLAN_AXES(VALUE).has_budget = asked->axes.has_budget,
                       .budget_share = asked->axes.budget_share,
                       .preset = asked->preset,
                       .source = asked->source,
                       .asked = asked->axes,
                       .n_holders = 1};
    /* Of two axes the one that was written decides: heads that hold different tokens choose for
     * themselves, whatever the preset has. */
    if (!plan_was_given(asked, PLAN_AXIS_share) && !may_share_layer(p))
        p->share = SHARE_HEAD;
    if (check_axes(asked, p, limits, e) && resolve_storage(asked, p, limits, e) &&
        (!plan_evicts(p) || resolve_budget(asked, p, n_prompt, limits, e)))
        return p;
    free(p);
    return NULL;
}

/* ---- how values come about */

static const char *rule_of_recent(const struct plan_asked *asked)
{
    const struct plan_axes *v = &asked->axes;
    const bool of_profile = v->allocation == ALLOCATION_PROFILE;
    if (of_profile && v->scorer != SCORER_WINDOW_ATTENTION) {
        if (v->has_budget)
            return "window_budget - sinks";
        return v->min_window ? "the larger of min_window and a fifth of the tokens" : NULL;
    }
    if (!recent_is_default(asked))
        return NULL;
    if (v->prefill == PREFILL_STREAM)
        return v->recent ? NULL : "budget - sinks";
    if (v->scorer == SCORER_WINDOW_ATTENTION)
        return "window";
    return asked->preset->recent_is_half ? "half of the budget" : NULL;
}

const char *plan_rule(const struct plan_asked *asked, enum plan_axis_id axis)
{
    const struct plan_axes *v = &asked->axes;
    const bool votes = v->allocation == ALLOCATION_PROFILE && v->scorer == SCORER_WINDOW_ATTENTION;
    if (axis == PLAN_AXIS_budget && v->budget_share > 0)
        return "that share of the prompt's tokens";
    if (axis == PLAN_AXIS_budget && !v->has_budget)
        return "sinks + recent, of heads that are not whole";
    if (axis == PLAN_AXIS_recent)
        return rule_of_recent(asked);
    if (axis == PLAN_AXIS_share && votes)
        return "layer: its retrieval heads choose for all of its heads";
    if (axis == PLAN_AXIS_interval && v->interval == 0)
        return v->scorer == SCORER_PERSISTENCE && v->allocation != ALLOCATION_PROFILE
                   ? "half of the budget"
                   : "one at a time";
    return NULL;
}
