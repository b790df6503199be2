/* Cache policies as JSON. The text of a request, header, flag or model suffix becomes a struct
 * plan_asked, a plan becomes JSON for an answer, and the axes become a schema. cache/policy/axis.h has
 * each key's type and range. Pure; any thread. */
#ifndef WINNOW_SERVER_API_PLAN_JSON_H
#define WINNOW_SERVER_API_PLAN_JSON_H

#include <jansson.h>

#include "cache/policy/plan.h"

/* Parses a request's value, a JSON string or object, and checks every key. For an unknown key the error
 * has the nearest valid one, or what to write instead of another program's key. e->where begins with
 * `where` ("kv_policy" gives "kv_policy.budget"). The source stays SOURCE_DEFAULT. False:
 * "invalid_kv_policy". */
bool plan_parse_json(const json_t *value, const char *where, struct plan_asked *out,
                     struct error *e);
/* The same for a header or flag: a preset's name, or a JSON object as text (at most 2048 bytes). */
bool plan_parse_text(const char *text, size_t length, const char *where, struct plan_asked *out,
                     struct error *e);
/* The same for the part of a model's name after '@': "sink", "sink:128" or "sink:0.25". */
bool plan_parse_suffix(const char *text, size_t length, const char *where, struct plan_asked *out,
                       struct error *e);
/* Whether the part after '@' is meant as a policy: its name is one, or nearly one. Other names of
 * models have an '@' too ("qwen2.5@q4_k_m", "@cf/meta/llama"). */
bool plan_is_suffix(const char *text);

/* The rest return a new reference; NULL: out of memory. */

/* The axes that the plan uses, resolved. */
json_t *plan_to_json(const struct plan *plan);
/* The same without a prompt: the value that every prompt gets, or null when it depends on the prompt. A
 * budget that was asked for as a share stays a share. */
json_t *plan_asked_to_json(const struct plan_asked *asked, const struct plan_limits *limits);
/* How the values of the axes that were not given follow: {"recent": "half of the budget"}. */
json_t *plan_rules_to_json(const struct plan_asked *asked);
/* The JSON schema of kv_policy. */
json_t *plan_schema(void);

#endif
