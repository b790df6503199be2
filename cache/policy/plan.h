/* A cache policy as data: a point in a small space of independent axes. The names people know
 * ("sink", "h2o") are presets, one table entry each in preset.c. Pure values, no allocation: any
 * thread.
 *
 * Life of a plan: plan_parse (text or JSON of a request, checked for type and range) ->
 * plan_resolve (shares become slots, cross-field rules) -> cache_sequence_new. */
#ifndef WINNOW_CACHE_POLICY_PLAN_H
#define WINNOW_CACHE_POLICY_PLAN_H

#include <jansson.h>
#include <stdint.h>

#include "cache/policy/head_profile.h"
#include "config/base/error.h"

enum plan_scorer {
    SCORER_NONE,
    SCORER_RECENCY,
    SCORER_ATTENTION_SUM,
    SCORER_ATTENTION_MEAN,
    SCORER_WINDOW_ATTENTION,
    SCORER_LAST_QUERY,
    SCORER_PERSISTENCE,
    SCORER_KEY_NORM,
    SCORER_KEY_DIFF,
    SCORER_RANDOM
};
enum plan_allocation {
    ALLOCATION_UNIFORM,
    ALLOCATION_PYRAMID,
    ALLOCATION_ADAPTIVE,
    ALLOCATION_PROFILE
};
enum plan_prefill { PREFILL_FULL, PREFILL_STREAM };
enum plan_decode { DECODE_GROW, DECODE_EVICT };
enum plan_remnant { REMNANT_NONE, REMNANT_MEAN };
enum plan_positions { POSITIONS_ORIGINAL, POSITIONS_CACHE };
enum plan_pooling { POOLING_AVG, POOLING_MAX, POOLING_NONE };
enum plan_share { SHARE_HEAD, SHARE_LAYER };
enum plan_storage { STORAGE_F16, STORAGE_BF16, STORAGE_Q8, STORAGE_Q4 };
enum plan_source { SOURCE_DEFAULT, SOURCE_REQUEST, SOURCE_HEADER, SOURCE_MODEL, SOURCE_SESSION };

struct preset; /* see below */

struct plan {
    const struct preset *preset;
    enum plan_source source;
    bool has_budget;     /* false: `full`, and profiles whose windows have a size of their own */
    double budget_share; /* 0 < share < 1 as asked for; 0: `budget` is a number or the default */
    bool budget_is_default, recent_is_half, recent_is_default;
    uint32_t budget; /* slots per head, sinks and recent included; under allocations that treat
                        heads differently the mean. Set by plan_resolve when a share */
    uint32_t sinks, recent, min_window;
    uint32_t window, kernel; /* window_attention: queries that vote, slots that are pooled */
    uint32_t interval; /* slots that one eviction drops; 0 = the scorer's habit. Resolved: >= 1 */
    uint32_t window_budget; /* resolved, allocation profile with whole heads: slots of the others */
    double sparsity;        /* allocation profile: share of heads that are not whole, of patterns */
    int64_t seed;           /* scorer random */
    enum plan_scorer scorer;
    enum plan_allocation allocation;
    enum plan_prefill prefill;
    enum plan_decode decode;
    enum plan_remnant remnant;
    enum plan_positions positions;
    enum plan_storage storage;
    enum plan_pooling pool;
    enum plan_share share;
    bool trace;
    uint32_t given; /* bit i: the request set key i of plan_parse.c's table */
};

/* One row of POLICIES.md's table. */
struct preset {
    const char *name;   /* "sink" */
    const char *help;   /* one line for a person */
    const char *source; /* "StreamingLLM" */
    bool multi_turn_safe;
    struct plan defaults; /* its `preset` is filled by plan_default */
};
uint32_t preset_count(void);
const struct preset *preset_at(uint32_t index);
uint32_t preset_index(const struct preset *preset); /* preset_at of it is the preset */
/* Canonical names and the accepted spellings (none, off, streamingllm, ...). NULL when unknown. */
const struct preset *preset_find(const char *name);
/* The preset's own plan: what a request gets that names it and nothing else. */
void plan_default(struct plan *out, const struct preset *preset);

/* Facts about the model and server that a plan is checked against. */
struct plan_limits {
    uint32_t n_ctx_train;               /* cache-relative positions may not exceed it */
    uint32_t max_budget;                /* --kv-policy-max-budget, 0 = none */
    const struct head_profile *profile; /* --head-profile, NULL = none */
    enum plan_storage storage;          /* the pool's */
};

/* Parses a request's value: a JSON string or object, checked key by key (types, ranges, unknown
 * keys with the nearest valid or the hint for foreign ones). e->where is the path, beginning with
 * `where` ("kv_policy" gives "kv_policy.budget"). Codes: "invalid_kv_policy". Budget stays
 * unresolved. */
bool plan_parse_json(const json_t *value, const char *where, struct plan *out, struct error *e);
/* The same for a header or flag: a preset name, or a JSON object as text (<= 2048 bytes). */
bool plan_parse_text(const char *text, size_t length, const char *where, struct plan *out,
                     struct error *e);
/* "sink", "sink:128" or "sink:0.25" (the part of a model name after '@'). */
bool plan_parse_suffix(const char *text, size_t length, const char *where, struct plan *out,
                       struct error *e);

/* Turns shares into slots for a prompt of n_prompt tokens and applies the cross-field rules of
 * API.md 7.3. Codes: "invalid_kv_policy", "kv_budget_exceeds_limit". */
bool plan_resolve(struct plan *plan, uint32_t n_prompt, const struct plan_limits *limits,
                  struct error *e);

/* "sink; budget=1024; source=request" for the X-KV-Policy response header and logs. */
void plan_describe(const struct plan *plan, char *out, size_t size);

/* Names for JSON; never NULL. */
const char *plan_scorer_name(enum plan_scorer v);
const char *plan_allocation_name(enum plan_allocation v);
const char *plan_prefill_name(enum plan_prefill v);
const char *plan_decode_name(enum plan_decode v);
const char *plan_remnant_name(enum plan_remnant v);
const char *plan_positions_name(enum plan_positions v);
const char *plan_pooling_name(enum plan_pooling v);
const char *plan_share_name(enum plan_share v);
const char *plan_storage_name(enum plan_storage v);
/* "q8" -> STORAGE_Q8; false when there is no such name. */
bool plan_storage_parse(const char *name, enum plan_storage *out);
const char *plan_source_name(enum plan_source v);

/* Whether a key of the object ("window") was set by the request. */
bool plan_was_given(const struct plan *plan, const char *key);
/* Whether the plan ever drops anything. */
bool plan_evicts(const struct plan *plan);
/* Allocation `profile` with scorer window_attention (CompressKV): no head is whole; the profile's
 * heads choose for all heads of their layer, and its scores share the budget among the layers. */
bool plan_profile_votes(const struct plan *plan);

/* The resolved axes as a JSON object (new reference, NULL: out of memory), and the JSON schema of
 * API.md 7.3. */
json_t *plan_to_json(const struct plan *plan);
json_t *plan_schema(void);

#endif
