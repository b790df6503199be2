/* Resolving plans against a prompt and a server, and their names: see plan.h. Pure functions. */
#include "cache/policy/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const scorers[] = {
    "none",       "recency",     "attention_sum", "attention_mean", "window_attention",
    "last_query", "persistence", "key_norm",      "key_diff",       "random"};
static const char *const allocations[] = {"uniform", "pyramid", "adaptive", "profile"};
static const char *const prefills[] = {"full", "stream"};
static const char *const decodes[] = {"grow", "evict"};
static const char *const remnants[] = {"none", "mean"};
static const char *const positions[] = {"original", "cache"};
static const char *const storages[] = {"f16", "bf16", "q8", "q4"};
static const char *const pools[] = {"avg", "max", "none"};
static const char *const shares[] = {"head", "layer"};
static const char *const sources[] = {"default", "request", "header", "model", "session"};

const char *plan_scorer_name(enum plan_scorer v)
{
    return scorers[v];
}

const char *plan_allocation_name(enum plan_allocation v)
{
    return allocations[v];
}

const char *plan_prefill_name(enum plan_prefill v)
{
    return prefills[v];
}

const char *plan_decode_name(enum plan_decode v)
{
    return decodes[v];
}

const char *plan_remnant_name(enum plan_remnant v)
{
    return remnants[v];
}

const char *plan_positions_name(enum plan_positions v)
{
    return positions[v];
}

const char *plan_pooling_name(enum plan_pooling v)
{
    return pools[v];
}

const char *plan_share_name(enum plan_share v)
{
    return shares[v];
}

const char *plan_storage_name(enum plan_storage v)
{
    return storages[v];
}

bool plan_storage_parse(const char *name, enum plan_storage *out)
{
    for (unsigned i = 0; i < sizeof storages / sizeof *storages; i++)
        if (!strcmp(name, storages[i])) {
            *out = (enum plan_storage)i;
            return true;
        }
    return false;
}

const char *plan_source_name(enum plan_source v)
{
    return sources[v];
}

bool plan_evicts(const struct plan *p)
{
    return p->has_budget || p->allocation == ALLOCATION_PROFILE;
}

bool plan_profile_votes(const struct plan *p)
{
    return p->allocation == ALLOCATION_PROFILE && p->scorer == SCORER_WINDOW_ATTENTION;
}

/* ---- combinations that make no sense */

static bool refuse(struct error *e, const char *key, const char *why)
{
    char path[64];
    snprintf(path, sizeof path, "kv_policy.%s", key);
    return error_set(e, "invalid_kv_policy", path, "%s", why);
}

/* Keys that only some choices of the axes read. */
static bool check_given(const struct plan *p, struct error *e)
{
    const bool windowed = p->scorer == SCORER_WINDOW_ATTENTION,
               profiled = p->allocation == ALLOCATION_PROFILE,
               dropped = p->decode == DECODE_EVICT && p->prefill == PREFILL_FULL;
    const struct {
        const char *key;
        bool read;
        const char *reader;
    } rows[] = {{"window", windowed, "the scorer 'window_attention'"},
                {"kernel", windowed, "the scorer 'window_attention'"},
                {"pool", windowed, "the scorer 'window_attention'"},
                {"seed", p->scorer == SCORER_RANDOM, "the scorer 'random'"},
                {"sparsity", profiled, "the allocation 'profile'"},
                {"min_window", profiled && !windowed,
                 "the allocation 'profile' with whole heads, which another scorer gives,"},
                {"interval", dropped, "prefill 'full' with decode 'evict'"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (plan_was_given(p, rows[i].key) && !rows[i].read) {
            char path[64];
            snprintf(path, sizeof path, "kv_policy.%s", rows[i].key);
            return error_set(e, "invalid_kv_policy", path,
                             "%s means nothing to this policy: only %s reads it", path,
                             rows[i].reader);
        }
    return true;
}

static bool check_axes(const struct plan *p, const struct plan_limits *limits, struct error *e)
{
    if (!plan_evicts(p))
        return true;
    if (p->scorer == SCORER_NONE)
        return refuse(e, "scorer", "a policy that drops something needs a scorer to choose it");
    if (p->prefill == PREFILL_STREAM && p->scorer != SCORER_RECENCY)
        return error_set(e, "invalid_kv_policy", "kv_policy.prefill",
                         "prefill 'stream' never sees the whole prompt, so it needs the scorer "
                         "'recency', not '%s'",
                         plan_scorer_name(p->scorer));
    if (p->prefill == PREFILL_STREAM && p->decode != DECODE_EVICT)
        return refuse(e, "decode",
                      "after prefill 'stream' the window goes on sliding: decode must "
                      "be 'evict'");
    if (p->prefill == PREFILL_STREAM && p->remnant != REMNANT_NONE)
        return refuse(e, "remnant",
                      "prefill 'stream' drops tokens before anybody could average "
                      "them: remnant must be 'none', or prefill 'full'");
    if (p->prefill == PREFILL_STREAM && p->allocation != ALLOCATION_UNIFORM &&
        p->allocation != ALLOCATION_PROFILE)
        return refuse(e, "allocation",
                      "prefill 'stream' gives every head the same window, or "
                      "treats them by 'profile'");
    if (p->positions == POSITIONS_CACHE &&
        (p->prefill != PREFILL_STREAM || p->allocation != ALLOCATION_UNIFORM))
        return refuse(e, "positions",
                      "positions 'cache' need prefill 'stream' and allocation "
                      "'uniform': only there are kept tokens in two runs, sinks "
                      "and window");
    if (p->allocation == ALLOCATION_ADAPTIVE && p->scorer == SCORER_RECENCY)
        return refuse(e, "allocation",
                      "under the scorer 'recency' all heads score alike, so "
                      "'adaptive' has nothing to adapt to; use 'uniform'");
    if (p->allocation == ALLOCATION_PROFILE && !limits->profile)
        return error_set(e, "invalid_kv_policy", "kv_policy.name",
                         "policy '%s' decides by head, which needs a head profile: make one with "
                         "`winnow calibrate` and start the server with --head-profile FILE",
                         p->preset->name);
    if (plan_profile_votes(p) && p->share == SHARE_HEAD && plan_was_given(p, "share"))
        return refuse(e, "share",
                      "under 'window_attention' with allocation 'profile' the retrieval heads "
                      "choose for their layer: share must be 'layer'");
    if (p->share == SHARE_LAYER && !plan_profile_votes(p) &&
        (p->allocation != ALLOCATION_UNIFORM || p->prefill != PREFILL_FULL))
        return refuse(e, "share",
                      "share 'layer' makes one choice for all heads of a layer, which "
                      "needs allocation 'uniform' and prefill 'full'");
    return check_given(p, e);
}

/* ---- slots */

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
static bool resolve_stream(struct plan *p, struct error *e)
{
    if (p->recent && p->budget_is_default)
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

static bool resolve_recent(struct plan *p, struct error *e)
{
    if (p->prefill == PREFILL_STREAM)
        return resolve_stream(p, e);
    if (p->scorer == SCORER_WINDOW_ATTENTION) {
        if (p->window > p->budget)
            return error_set(e, "invalid_kv_policy", "kv_policy.window",
                             "window %u is above budget %u: the window itself is always kept",
                             p->window, p->budget);
        if (p->recent_is_default || p->recent < p->window)
            p->recent = p->window;
    } else if (p->recent_is_default && p->recent_is_half) {
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
        p->window_budget = p->sinks + p->recent;
        p->budget = p->window_budget;
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
    p->window_budget = (uint32_t)left;
    p->recent = p->window_budget - p->sinks;
    p->min_window = 0;
    return true;
}

static bool resolve_slots(struct plan *p, uint32_t n_prompt, const struct plan_limits *limits,
                          struct error *e)
{
    if (plan_profile_votes(p)) {
        p->share = SHARE_LAYER;
        p->min_window = 0;
        if (!p->has_budget)
            return error_set(e, "invalid_kv_policy", "kv_policy.budget",
                             "budget is missing: under 'window_attention' with allocation "
                             "'profile' no head is whole, the layers share a budget");
        return resolve_recent(p, e);
    }
    if (p->interval == 0 && p->allocation == ALLOCATION_PROFILE)
        p->interval = 1;
    return p->allocation == ALLOCATION_PROFILE ? resolve_profile(p, n_prompt, limits, e)
                                               : resolve_recent(p, e);
}

bool plan_resolve(struct plan *p, uint32_t n_prompt, const struct plan_limits *limits,
                  struct error *e)
{
    if (!check_axes(p, limits, e))
        return false;
    if (p->storage != limits->storage && plan_was_given(p, "storage"))
        return error_set(e, "invalid_kv_policy", "kv_policy.storage",
                         "storage '%s' is not what this server's cache is made of ('%s')",
                         plan_storage_name(p->storage), plan_storage_name(limits->storage));
    p->storage = limits->storage;
    if (!plan_evicts(p))
        return true;
    if (p->budget_share > 0)
        resolve_share(p, n_prompt);
    else if (p->budget_is_default && p->positions == POSITIONS_CACHE &&
             p->budget > limits->n_ctx_train)
        p->budget = limits->n_ctx_train;
    const struct plan asked = *p;
    if (!resolve_slots(p, n_prompt, limits, e))
        return false;
    if (limits->max_budget && p->has_budget && p->budget > limits->max_budget) {
        if (!p->budget_is_default) {
            error_set(e, "kv_budget_exceeds_limit", "kv_policy.budget",
                      "budget %u is above this server's cap %u", p->budget, limits->max_budget);
            if (e)
                e->max_budget = limits->max_budget;
            return false;
        }
        *p = asked;
        p->recent = p->prefill == PREFILL_STREAM ? 0 : p->recent;
        p->budget = limits->max_budget;
        if (!resolve_slots(p, n_prompt, limits, e))
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

void plan_describe(const struct plan *p, char *out, size_t size)
{
    if (p->has_budget)
        snprintf(out, size, "%s; budget=%u; source=%s", p->preset->name, p->budget,
                 plan_source_name(p->source));
    else
        snprintf(out, size, "%s; source=%s", p->preset->name, plan_source_name(p->source));
}

static bool put(json_t *o, const char *key, json_t *value)
{
    return json_object_set_new(o, key, value) == 0;
}

json_t *plan_to_json(const struct plan *p)
{
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "name", p->preset->name, "scorer",
        plan_scorer_name(p->scorer), "allocation", plan_allocation_name(p->allocation), "prefill",
        plan_prefill_name(p->prefill), "decode", plan_decode_name(p->decode), "remnant",
        plan_remnant_name(p->remnant), "positions", plan_positions_name(p->positions), "storage",
        plan_storage_name(p->storage), "trace", p->trace);
    if (!o || !plan_evicts(p))
        return o;
    bool ok = put(o, "budget", json_integer(p->budget)) &&
              put(o, "sinks", json_integer(p->sinks)) && put(o, "recent", json_integer(p->recent));
    if (p->scorer == SCORER_WINDOW_ATTENTION)
        ok = ok && put(o, "window", json_integer(p->window)) &&
             put(o, "kernel", json_integer(p->kernel)) &&
             put(o, "pool", json_string(plan_pooling_name(p->pool)));
    if (p->scorer == SCORER_RANDOM)
        ok = ok && put(o, "seed", json_integer(p->seed));
    if (p->decode == DECODE_EVICT && p->prefill == PREFILL_FULL)
        ok = ok && put(o, "interval", json_integer(p->interval)) &&
             put(o, "share", json_string(plan_share_name(p->share)));
    if (p->allocation == ALLOCATION_PROFILE)
        ok = ok && put(o, "sparsity", json_real(p->sparsity));
    if (p->allocation == ALLOCATION_PROFILE && !plan_profile_votes(p))
        ok = ok && put(o, "min_window", json_integer(p->min_window)) &&
             put(o, "window_budget", json_integer(p->window_budget));
    if (ok)
        return o;
    json_decref(o);
    return NULL;
}
