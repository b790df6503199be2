/* Cache policies as JSON: what a request, header, flag or model suffix says becomes a struct
 * plan_asked, plans become answers, and the axes a schema. Every key has a type and a range in the
 * table of cache/policy/axis.h; what is not allowed gets its own sentence. Pure functions, any
 * thread. */
#ifndef WINNOW_SERVER_API_PLAN_JSON_H
#define WINNOW_SERVER_API_PLAN_JSON_H

#include <jansson.h>

#include "cache/policy/plan.h"

/* Parses a request's value: a JSON string or object, checked key by key (types, ranges, unknown
 * keys with the nearest valid or the hint for foreign ones). e->where is the path, beginning with
 * `where` ("kv_policy" gives "kv_policy.budget"). The source stays SOURCE_DEFAULT. Codes:
 * "invalid_kv_policy". */
bool plan_parse_json(const json_t *value, const char *where, struct plan_asked *out,
                     struct error *e);
/* The same for a header or flag: a preset name, or a JSON object as text (<= 2048 bytes). */
bool plan_parse_text(const char *text, size_t length, const char *where, struct plan_asked *out,
                     struct error *e);
/* "sink", "sink:128" or "sink:0.25" (the part of a model name after '@'). */
bool plan_parse_suffix(const char *text, size_t length, const char *where, struct plan_asked *out,
                       struct error *e);

/* All of these: a new reference, NULL when memory is short. */

/* The axes that mean something to the plan, resolved. */
json_t *plan_to_json(const struct plan *plan);
/* The same for whatever prompt may come: the value that every prompt gets; a budget's share where
 * it was asked for as one; null where the value follows the prompt. */
json_t *plan_asked_to_json(const struct plan_asked *asked, const struct plan_limits *limits);
/* Of the axes that nobody stated, how their values come about: {"recent": "half of the budget"}. */
json_t *plan_rules_to_json(const struct plan_asked *asked);
/* The JSON schema of kv_policy, as clients fetch it. */
json_t *plan_schema(void);

#endif
