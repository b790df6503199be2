/* Resolving plans against a prompt and a server, and their names: see plan.h. Pure functions. */
#include "cache/plan.h"

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

const char *plan_storage_name(enum plan_storage v)
{
    return storages[v];
}

const char *plan_source_name(enum plan_source v)
{
    return sources[v];
}

/* What the cache of this version can do: keep everything, or keep sinks and a window. */
static bool check_axes(const struct plan *p, struct error *e)
{
    bool grows = p->prefill == PREFILL_FULL && p->decode == DECODE_GROW && !p->has_budget;
    bool slides = p->prefill == PREFILL_STREAM && p->decode == DECODE_EVICT && p->has_budget &&
                  p->scorer == SCORER_RECENCY && p->allocation == ALLOCATION_UNIFORM;
    if (p->prefill == PREFILL_STREAM && p->scorer != SCORER_RECENCY)
        return error_set(e, "invalid_kv_policy", "kv_policy.prefill",
                         "prefill 'stream' never sees the whole prompt, so it needs the scorer "
                         "'recency', not '%s'",
                         plan_scorer_name(p->scorer));
    if (p->remnant != REMNANT_NONE || (!grows && !slides) ||
        (grows && p->positions != POSITIONS_ORIGINAL))
        return error_set(e, "invalid_kv_policy", "kv_policy",
                         "this version can keep everything (prefill 'full', decode 'grow', "
                         "positions 'original'), or sinks "
                         "and a window (scorer 'recency', prefill 'stream', decode 'evict'); it "
                         "cannot do scorer '%s' with "
                         "prefill '%s', decode '%s', positions '%s', remnant '%s'",
                         plan_scorer_name(p->scorer), plan_prefill_name(p->prefill),
                         plan_decode_name(p->decode), plan_positions_name(p->positions),
                         plan_remnant_name(p->remnant));
    return true;
}

static void resolve_share(struct plan *p, uint32_t n_prompt)
{
    double slots = ceil(p->budget_share * n_prompt);
    p->budget = slots < 1 ? 1 : (uint32_t)slots;
}

/* The rest of the budget is the window, so a stated `recent` must be just that. */
static bool resolve_recent(struct plan *p, struct error *e)
{
    if (p->recent && p->budget_is_default)
        p->budget = p->sinks + p->recent;
    if (p->budget < p->sinks + p->recent + (p->recent ? 0 : 1))
        return error_set(
            e, "invalid_kv_policy", "kv_policy.budget",
            "budget %u is too small: it must hold %u sinks, %u recent and the newest token",
            p->budget, p->sinks, p->recent);
    if (p->recent && p->recent != p->budget - p->sinks)
        return error_set(e, "invalid_kv_policy", "kv_policy.recent",
                         "recent %u does not agree with budget %u and %u sinks: all slots but the "
                         "sinks are recent, which "
                         "makes %u",
                         p->recent, p->budget, p->sinks, p->budget - p->sinks);
    p->recent = p->budget - p->sinks;
    return true;
}

bool plan_resolve(struct plan *p, uint32_t n_prompt, const struct plan_limits *limits,
                  struct error *e)
{
    if (!p->preset->available)
        return error_set(
            e, "invalid_kv_policy", "kv_policy.name",
            "kv_policy '%s' is a known name, but this version serves only full and sink",
            p->preset->name);
    if (!check_axes(p, e))
        return false;
    if (p->storage != limits->storage)
        return error_set(e, "invalid_kv_policy", "kv_policy.storage",
                         "storage '%s' is not what this server's cache is made of ('%s')",
                         plan_storage_name(p->storage), plan_storage_name(limits->storage));
    if (!p->has_budget)
        return true;
    if (p->budget_share > 0)
        resolve_share(p, n_prompt);
    else if (p->budget_is_default && p->positions == POSITIONS_CACHE &&
             p->budget > limits->n_ctx_train)
        p->budget = limits->n_ctx_train;
    if (!resolve_recent(p, e))
        return false;
    if (limits->max_budget && p->budget > limits->max_budget) {
        if (!p->budget_is_default) {
            error_set(e, "kv_budget_exceeds_limit", "kv_policy.budget",
                      "budget %u is above this server's cap %u", p->budget, limits->max_budget);
            if (e)
                e->max_budget = limits->max_budget;
            return false;
        }
        p->recent = 0;
        p->budget = limits->max_budget;
        if (!resolve_recent(p, e))
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

json_t *plan_to_json(const struct plan *p)
{
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "name", p->preset->name, "scorer",
        plan_scorer_name(p->scorer), "allocation", plan_allocation_name(p->allocation), "prefill",
        plan_prefill_name(p->prefill), "decode", plan_decode_name(p->decode), "remnant",
        plan_remnant_name(p->remnant), "positions", plan_positions_name(p->positions), "storage",
        plan_storage_name(p->storage), "trace", p->trace);
    if (!o || !p->has_budget)
        return o;
    if (json_object_set_new(o, "budget", json_integer(p->budget)) ||
        json_object_set_new(o, "sinks", json_integer(p->sinks)) ||
        json_object_set_new(o, "recent", json_integer(p->recent))) {
        json_decref(o);
        return NULL;
    }
    return o;
}
