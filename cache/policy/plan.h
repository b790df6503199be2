/* A cache policy as data: a point in a small space of independent axes. The names people know
 * ("sink", "h2o") are presets, one row each in preset.c.
 *
 *   struct plan_asked   what was said: values of the axes, which of them were given, and by whom.
 *                       A small value, copied freely; server/api/plan_json.h reads it from JSON.
 *   struct plan         what it comes to for one prompt under one server's limits: numbers and
 *                       enums that never change, shared by pointer. plan_resolve makes it.
 *
 * Any thread. Also read by device code. */
#ifndef WINNOW_CACHE_POLICY_PLAN_H
#define WINNOW_CACHE_POLICY_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/policy/head_profile.h"
#include "cache/policy/scorer.h"
#include "config/base/error.h"

struct preset; /* preset.h */

enum plan_allocation {
    ALLOCATION_UNIFORM,
    ALLOCATION_PYRAMID,
    ALLOCATION_ADAPTIVE,
    ALLOCATION_ADAPTIVE_FLOOR,
    ALLOCATION_PROFILE
};
enum plan_prefill { PREFILL_FULL, PREFILL_STREAM };
enum plan_decode { DECODE_GROW, DECODE_EVICT };
enum plan_remnant { REMNANT_NONE, REMNANT_MEAN };
enum plan_positions { POSITIONS_ORIGINAL, POSITIONS_CACHE };
enum plan_pooling { POOLING_AVG, POOLING_MAX, POOLING_NONE };
enum plan_share { SHARE_HEAD, SHARE_LAYER };
enum plan_storage { STORAGE_F16, STORAGE_BF16, STORAGE_Q8, STORAGE_Q4 };
enum plan_source {
    SOURCE_DEFAULT,
    SOURCE_REQUEST,
    SOURCE_HEADER,
    SOURCE_MODEL,
    SOURCE_SESSION,
    N_SOURCES
};

enum { PLAN_LARGEST_BUDGET = 1 << 24 };

/* Every axis, once: X(type, field, key, kind, least, most, names, reader, help). Key, kind, range
 * and names of values are what a request may write; the reader (axis.c) says to which policies the
 * axis means something; help is one line for a person. axis.h has the rows as a table. */
#define PLAN_AXES(X)                                                                               \
    X(uint32_t, budget, "budget", BUDGET, 2, PLAN_LARGEST_BUDGET, NULL, by_evicting,               \
      "slots per head, sinks and recent included, or a share of the prompt's tokens; the mean "    \
      "where heads differ")                                                                        \
    X(uint32_t, sinks, "sinks", NUMBER, 0, 4096, NULL, by_evicting,                                \
      "first tokens of the text that are never dropped")                                           \
    X(uint32_t, recent, "recent", NUMBER, 0, PLAN_LARGEST_BUDGET, NULL, by_evicting,               \
      "newest tokens that are never dropped")                                                      \
    X(uint32_t, min_window, "min_window", NUMBER, 1, PLAN_LARGEST_BUDGET, NULL, by_whole_heads,    \
      "least recent tokens of heads that are not whole, whose window grows with the text")         \
    X(uint32_t, vote_queries, "window", NUMBER, 1, 1024, NULL, by_votes,                           \
      "last queries of the prompt whose attention chooses; their own tokens are always kept")      \
    X(uint32_t, kernel, "kernel", ODD, 1, 63, NULL, by_votes,                                      \
      "neighbouring tokens that are pooled")                                                       \
    X(enum plan_pooling, pooling, "pool", CHOICE, 0, 0, &pooling_names, by_votes,                  \
      "how the scores of neighbours are pooled")                                                   \
    X(enum plan_share, share, "share", CHOICE, 0, 0, &share_names, by_full_prefill,                \
      "whether each head chooses for itself or all heads of a layer together")                     \
    X(enum plan_scorer, scorer, "scorer", CHOICE, 0, 0, &scorer_names, by_all,                     \
      "what decides which tokens stay")                                                            \
    X(enum plan_allocation, allocation, "allocation", CHOICE, 0, 0, &allocation_names, by_all,     \
      "how the budget is shared among layers and heads")                                           \
    X(enum plan_prefill, prefill, "prefill", CHOICE, 0, 0, &prefill_names, by_all,                 \
      "whether the prompt is read whole and then compressed, or through the sliding window")       \
    X(enum plan_decode, decode, "decode", CHOICE, 0, 0, &decode_names, by_all,                     \
      "whether the answer grows the cache or evicts as it goes")                                   \
    X(uint32_t, interval, "interval", NUMBER, 1, 4096, NULL, by_dropping,                          \
      "slots that one eviction drops")                                                             \
    X(enum plan_remnant, remnant, "remnant", CHOICE, 0, 0, &remnant_names, by_all,                 \
      "what is left of dropped tokens")                                                            \
    X(enum plan_positions, positions, "positions", CHOICE, 0, 0, &positions_names, by_all,         \
      "positions of kept tokens: those of the text, or those inside the cache")                    \
    X(enum plan_storage, storage, "storage", CHOICE, 0, 0, &storage_names, by_all,                 \
      "what keys and values are stored as; the server's")                                          \
    X(double, sparsity, "sparsity", FRACTION, 0, 1, NULL, by_profile,                              \
      "share of heads that are not whole, of profiles that rank heads")                            \
    X(int64_t, seed, "seed", INTEGER, INT64_MIN, INT64_MAX, NULL, by_random,                       \
      "of the random choice")                                                                      \
    X(bool, trace, "trace", SWITCH, 0, 0, NULL, by_all,                                            \
      "whether the answer lists the positions that were kept")

#define PLAN_AXIS_ID(type, field, ...)    PLAN_AXIS_##field,
#define PLAN_AXIS_FIELD(type, field, ...) type field;

/* PLAN_AXIS_budget, ...: bits of plan_asked.given, rows of axis.h. */
enum plan_axis_id { PLAN_AXES(PLAN_AXIS_ID) N_PLAN_AXES };

/* A value for every axis. */
struct plan_axes {
    PLAN_AXES(PLAN_AXIS_FIELD)
    bool has_budget;     /* false: `full`, and profiles whose windows have a size of their own */
    double budget_share; /* 0 < share < 1: `budget` is that part of the prompt; 0: it is a number */
};

/* ---- what was said */

struct plan_asked {
    const struct preset *preset;
    enum plan_source source;
    uint32_t given; /* bit PLAN_AXIS_x: somebody wrote this key */
    struct plan_axes axes;
};
/* The preset and nothing else. */
struct plan_asked plan_asked_of(const struct preset *preset);

static inline bool plan_was_given(const struct plan_asked *asked, enum plan_axis_id axis)
{
    return asked->given >> axis & 1;
}

/* ---- what it comes to */

struct plan {
    /* Budget, sinks, recent, ... as in struct plan_axes, resolved: `budget` and `recent` are slots,
     * `interval` >= 1 where decode evicts after a full prefill. */
    PLAN_AXES(PLAN_AXIS_FIELD)
    bool has_budget;
    double budget_share;   /* what `budget` was asked for as; 0: a number */
    uint32_t other_budget; /* allocation `profile` with whole heads: slots of each other head */
    const struct preset *preset;
    enum plan_source source;
    struct plan_axes asked; /* before resolving: what plan_agrees compares */
    uint32_t n_holders;     /* 0: in its owner's memory, which outlives all who use it */
};

/* Facts about the model and server that a plan is checked against. */
struct plan_limits {
    uint32_t n_ctx_train;               /* cache-relative positions may not exceed it */
    uint32_t max_budget;                /* --kv-policy-max-budget, 0 = none */
    const struct head_profile *profile; /* --head-profile, NULL = none */
    enum plan_storage storage;          /* the pool's */
};

/* Turns shares and defaults into slots for a prompt of n_prompt tokens and applies the cross-field
 * rules of POLICIES.md. The caller holds the plan (plan_release). NULL: "invalid_kv_policy",
 * "kv_budget_exceeds_limit", "out_of_memory". */
const struct plan *plan_resolve(const struct plan_asked *asked, uint32_t n_prompt,
                                const struct plan_limits *limits, struct error *e);

/* plan_hold adds a holder and returns its argument, plan_release removes one; the last one frees
 * the plan. Both allow NULL. Any thread. */
const struct plan *plan_hold(const struct plan *plan);
void plan_release(const struct plan *plan);
/* A copy with another source and trace, which the caller holds. NULL: "out_of_memory". */
const struct plan *plan_for(const struct plan *plan, enum plan_source source, bool trace,
                            struct error *e);

/* The values of all axes. */
struct plan_axes plan_axes_of(const struct plan *plan);

/* Whether a sequence kept under one plan can go on under the other: both were asked for alike,
 * or resolve to the same. Source, trace and storage do not count. */
bool plan_agrees(const struct plan *a, const struct plan *b);

/* "sink; budget=1024; source=request" for the X-KV-Policy response header and logs. */
void plan_describe(const struct plan *plan, char *out, size_t size);

/* How an axis that nobody stated gets its value ("half of the budget"). NULL: it is stated, or
 * the preset's own. */
const char *plan_rule(const struct plan_asked *asked, enum plan_axis_id axis);

/* Names for people; never NULL. */
const char *plan_scorer_name(enum plan_scorer v);
const char *plan_storage_name(enum plan_storage v);
/* "q8" -> STORAGE_Q8; false when there is no such name. */
bool plan_storage_parse(const char *name, enum plan_storage *out);
const char *plan_source_name(enum plan_source v);

/* Whether the plan ever drops anything. */
static inline bool plan_evicts(const struct plan *p)
{
    return p->has_budget || p->allocation == ALLOCATION_PROFILE;
}

/* Whether the heads of a layer compete for their slots. */
static inline bool plan_competes(const struct plan *p)
{
    return p->allocation == ALLOCATION_ADAPTIVE || p->allocation == ALLOCATION_ADAPTIVE_FLOOR;
}

/* Allocation `profile` with scorer window_attention (CompressKV): no head is whole; the profile's
 * heads choose for all heads of their layer, and its scores share the budget among the layers. */
static inline bool plan_profile_votes(const struct plan *p)
{
    return p->allocation == ALLOCATION_PROFILE && p->scorer == SCORER_WINDOW_ATTENTION;
}

#endif
